// Marks tables that are wider than their place, so that tables.css can say that they scroll sideways.
(() => {
  const mark = () => document.querySelectorAll(".md-typeset__scrollwrap").forEach(place =>
    place.classList.toggle("scrolls", place.scrollWidth > place.clientWidth + 1));
  // The theme puts tables into those places as it starts, and fonts and pictures change their widths.
  const watch = new ResizeObserver(mark);
  watch.observe(document.body);
  document.querySelectorAll(".md-typeset table:not([class])").forEach(table => watch.observe(table));
})();
