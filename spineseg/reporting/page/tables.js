"use strict";
// Sort a table by the column whose heading is pressed; cells without a value stay last either way.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const number = head.dataset.sort === "number";
      const value = (row) => {
        const key = row.cells[column].dataset.key;
        return key === undefined ? null : number ? Number(key) : key;
      };
      const compare = (a, b) => (number ? a - b : a.localeCompare(b, "en", { numeric: true }));
      const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
      rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : falling ? compare(b, a) : compare(a, b)));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

const theme = document.getElementById("theme");
const systemDark = matchMedia("(prefers-color-scheme: dark)").matches;
const showTheme = (dark) => {
  theme.setAttribute("aria-pressed", String(dark));
  theme.textContent = dark ? "Light" : "Dark";
  theme.setAttribute("aria-label", dark ? "Light page" : "Dark page");
};
showTheme(systemDark);
theme.addEventListener("click", () => {
  const dark = theme.getAttribute("aria-pressed") !== "true";
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  showTheme(dark);
});
