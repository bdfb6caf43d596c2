// Columns of tables of the class "sortable" sort at a click or Enter on their heading: numbers by size, text by letter.
document.querySelectorAll("table.sortable, .sortable > table, .sortable .md-typeset__table > table").forEach(table => {
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text.replace(/[^\d.eE+-]/g, ""));
    return { text, number: text === "-" || text === "" ? NaN : /^[\d.+-]/.test(text) ? number : NaN };
  };
  heads.forEach((head, column) => {
    head.tabIndex = 0;
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].map(row => [row, key(row, column)]);
      rows.sort(([, a], [, b]) => {
        const numeric = !isNaN(a.number) || !isNaN(b.number);
        if (numeric && isNaN(a.number)) return 1; // what has no figure stays at the end
        if (numeric && isNaN(b.number)) return -1;
        const order = numeric ? a.number - b.number : a.text.localeCompare(b.text);
        return up ? order : -order;
      });
      table.tBodies[0].append(...rows.map(([row]) => row));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
});
