(() => {
  "use strict";

  const valueOf = (cell) => {
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    const text = cell.textContent.trim();
    return text === "" ? null : text;
  };
  const words = new Intl.Collator(undefined, { numeric: true });
  // Numbers before texts, empty cells last in either direction.
  const compare = (one, other) => {
    if (typeof one === "number" && typeof other === "number") return one - other;
    if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
    return words.compare(one, other);
  };

  const sort = (table, head, column) => {
    const falling = head.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => ({ row, key: valueOf(row.cells[column]) }));
    const full = keyed.filter((each) => each.key !== null).sort((a, b) => compare(a.key, b.key) * (falling ? -1 : 1));
    body.append(...full.map((each) => each.row), ...keyed.filter((each) => each.key === null).map((each) => each.row));
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.addEventListener("click", () => sort(table, head, column));
      head.replaceChildren(button);
    });
    const frame = table.parentElement;
    const reach = () => (frame.scrollWidth > frame.clientWidth ? (frame.tabIndex = 0) : frame.removeAttribute("tabindex"));
    new ResizeObserver(reach).observe(frame);
  }

  const tip = document.createElement("div");
  tip.id = "tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  document.body.append(tip);
  let shown = null;
  const hide = () => { shown = null; tip.hidden = true; };
  const show = (mark) => {
    shown = mark;
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const at = mark.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = Math.max(8, Math.min(at.left + at.width / 2 - tip.offsetWidth / 2, width - tip.offsetWidth - 8));
    const above = at.top - tip.offsetHeight - 8;
    tip.style.left = `${left + window.scrollX}px`;
    tip.style.top = `${(above < 0 ? at.bottom + 8 : above) + window.scrollY}px`;
  };

  // One stop of the tab key for each chart; the arrow keys go from mark to mark.
  for (const chart of document.querySelectorAll(".chart")) {
    const marks = [...chart.querySelectorAll("[data-tip]")];
    marks.forEach((mark, at) => {
      mark.querySelector("title")?.remove();
      mark.setAttribute("tabindex", at === 0 ? "0" : "-1");
      mark.addEventListener("pointerenter", () => show(mark));
      mark.addEventListener("pointerleave", hide);
      mark.addEventListener("focus", () => show(mark));
      mark.addEventListener("blur", hide);
      mark.addEventListener("keydown", (event) => {
        const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -at, End: marks.length - 1 - at };
        if (event.key === "Escape") hide();
        if (!(event.key in steps)) return;
        event.preventDefault();
        const next = marks[(at + steps[event.key] + marks.length) % marks.length];
        mark.setAttribute("tabindex", "-1");
        next.setAttribute("tabindex", "0");
        next.focus();
      });
    });
  }
  // A mark that gets the focus may scroll into view, and its value with it.
  window.addEventListener("scroll", () => (shown && shown === document.activeElement ? show(shown) : hide()), true);
})();
