"use strict";
// Everything can be read without this: it adds sorting, filters and copy buttons.

const collator = new Intl.Collator(undefined, { numeric: true });

function say(text) {
  document.getElementById("said").textContent = text;
}

/** Sort by a column when its heading is pressed, then the other way round; what is not known stays last. */
function makeSortable(table) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const keyed = (row, place) => row.cells[place].dataset.key ?? row.cells[place].textContent;
  headings.forEach((heading, place) => {
    if (heading.classList.contains("plain")) return;
    const numeric = heading.classList.contains("number");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((one) => one.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const way = down ? -1 : 1;
      const rows = [...body.rows].map((row) => [keyed(row, place), row]);
      rows.sort(([one], [other]) => {
        if (one === "" || other === "") return (one === "") - (other === "");
        return way * (numeric ? Number(one) - Number(other) : collator.compare(one, other));
      });
      body.append(...rows.map(([, row]) => row));
      say(`Sorted by ${button.textContent}, ${down ? "descending" : "ascending"}`);
    });
  });
}

/** Show the items that pass every test of a box of filters, and say how many. */
function makeFilters(box, items, tests, after) {
  const count = box.querySelector(".count");
  const apply = (event) => {
    const active = tests.map((test) => test()).filter(Boolean);
    let shown = 0;
    for (const item of items) {
      item.hidden = !active.every((passes) => passes(item));
      shown += !item.hidden;
    }
    count.textContent = `Showing ${shown} of ${items.length}`;
    after?.(event !== undefined && active.length > 0);
  };
  box.addEventListener("input", apply);
  box.querySelector("[data-reset]")?.addEventListener("click", () => {
    for (const control of box.querySelectorAll("select, input")) {
      if (control.type === "checkbox") control.checked = false;
      else control.value = "";
    }
    apply(null);
  });
  box.hidden = false;
  apply();
}

function searchIn(box) {
  const field = box.querySelector("[data-search]");
  const texts = new Map();
  const textOf = (item) => {
    if (!texts.has(item)) texts.set(item, item.textContent.toLowerCase());
    return texts.get(item);
  };
  return () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    return words.length && ((item) => words.every((word) => textOf(item).includes(word)));
  };
}

function filterBoard(box) {
  const rows = [...document.getElementById("board").tBodies[0].rows];
  const columns = [...box.querySelectorAll("[data-column]")].map((select) => () =>
    select.value && ((row) => row.cells[Number(select.dataset.column)].textContent === select.value));
  const kinds = box.querySelector("[data-kinds]");
  const kind = () => kinds.value && ((row) => kinds.value.split(" ").includes(row.dataset.kind));
  makeFilters(box, rows, [...columns, kind, searchIn(box)]);
}

function filterSamples(box) {
  const groups = [...document.querySelectorAll("#sample-groups .group")];
  const samples = [...document.querySelectorAll("#sample-groups .sample")];
  const attributes = [...box.querySelectorAll("[data-attribute]")].map((select) => () =>
    select.value && ((sample) => sample.dataset[select.dataset.attribute] === select.value));
  const changed = box.querySelector("[data-changed]");
  const onlyChanged = () => changed.checked && ((sample) => "changed" in sample.dataset);
  makeFilters(box, samples, [...attributes, onlyChanged, searchIn(box)], (chosen) => {
    for (const group of groups) {
      group.hidden = !group.querySelector(".sample:not([hidden])");
      if (chosen && !group.hidden) group.open = true;
    }
  });
}

/** Show the one figure that is chosen; of another combination than there is, none. */
function switchFigures(box) {
  const figures = [...document.querySelectorAll("#explored .explored")];
  const chosen = [...box.querySelectorAll("[data-attribute]")].map((select) => () =>
    (figure) => figure.dataset[select.dataset.attribute] === select.value);
  makeFilters(box, figures, chosen);
}

function addCopyButton(item) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    const code = item.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      say("Copied");
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    } catch {
      // A page from a file may not be let near the clipboard: then the text is selected.
      getSelection().selectAllChildren(code);
      say("Selected; copy it with the keyboard");
    }
  });
  item.append(button);
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll('[data-for="board"]').forEach(filterBoard);
document.querySelectorAll('[data-for="explored"]').forEach(switchFigures);
document.querySelectorAll('[data-for="sample-groups"]').forEach(filterSamples);
document.querySelectorAll(".commands li").forEach(addCopyButton);
