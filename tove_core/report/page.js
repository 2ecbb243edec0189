"use strict";
// Everything can be read without this script: it sorts tables and filters examples.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        const numbers = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
        return (numbers ? Number(x) - Number(y) : x.localeCompare(y)) * (down ? -1 : 1);
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort(order));
    });
  });
}
const filters = document.querySelector(".filters");
if (filters) {
  filters.hidden = false;
  const chosen = [...filters.querySelectorAll("select")];
  const shown = filters.querySelector("output");
  const apply = () => {
    let count = 0;
    for (const one of document.querySelectorAll(".example")) {
      one.hidden = chosen.some((select) => select.value !== "*" && one.dataset[select.name] !== select.value);
      count += one.hidden ? 0 : 1;
    }
    shown.textContent = `${count} shown`;
  };
  chosen.forEach((select) => select.addEventListener("change", apply));
  apply();
}
