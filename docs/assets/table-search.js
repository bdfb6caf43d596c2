// A search box above the first sortable table: rows of all of them that lack one of its words are hidden.
(() => {
  const tables = [...document.querySelectorAll(".sortable table")];
  if (!tables.length) return;
  const box = document.createElement("input");
  box.type = "search";
  box.className = "table-search";
  box.placeholder = "Search these tables";
  box.setAttribute("aria-label", "Search the tables");
  const count = document.createElement("output");
  const first = tables[0].closest(".sortable");
  const heading = first.previousElementSibling || first;
  heading.before(box, count);
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    tables.forEach(table => [...table.tBodies[0].rows].forEach(row => {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      left += !row.hidden;
    }));
    count.textContent = words.length ? `${left} found` : "";
  });
})();
