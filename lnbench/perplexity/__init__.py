"""How changing one language's neurons changes the perplexity of another language's text."""
