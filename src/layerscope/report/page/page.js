"use strict";
// Sorting and opening; without this script the page shows everything, in execution order.
(() => {
  const table = document.querySelector("table.sortable");
  const heads = [...table.tHead.rows[0].cells];
  const bodies = [...table.tBodies];

  // Empty is unknown, and stays last in both directions.
  const compare = (column, sign) => (a, b) => {
    const [x, y] = [a.rows[0].cells[column].dataset, b.rows[0].cells[column].dataset];
    if (x.text !== undefined) return sign * x.text.localeCompare(y.text, undefined, { numeric: true });
    if (x.sort === "" || y.sort === "") return (x.sort === "") - (y.sort === "");
    return sign * (Number(x.sort) - Number(y.sort));
  };

  const sortBy = (column) => {
    const head = heads[column];
    const first = head.classList.contains("number") ? "descending" : "ascending";
    const opposite = { ascending: "descending", descending: "ascending" };
    const direction = opposite[head.getAttribute("aria-sort")] ?? first;
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", direction);
    // From the original order each time, so that equals stay in execution order.
    table.append(...[...bodies].sort(compare(column, direction === "ascending" ? 1 : -1)));
  };
  heads.forEach((head, column) =>
    head.querySelector("button").addEventListener("click", () => sortBy(column)),
  );

  const setOpen = (body, open) => {
    body.rows[0].querySelector("button").setAttribute("aria-expanded", String(open));
    body.rows[1].hidden = !open;
  };
  bodies.forEach((body) => {
    setOpen(body, false);
    const button = body.rows[0].querySelector("button");
    button.addEventListener("click", () =>
      setOpen(body, button.getAttribute("aria-expanded") !== "true"),
    );
  });

  const all = document.getElementById("expand");
  all.addEventListener("click", () => {
    const open = all.getAttribute("aria-pressed") !== "true";
    all.setAttribute("aria-pressed", String(open));
    all.textContent = open ? "Close all" : "Open all";
    bodies.forEach((body) => setOpen(body, open));
  });
})();
