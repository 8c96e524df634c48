"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const tell = (words) => { document.getElementById("told").textContent = words; };

  // Light and dark: the system's choice until somebody presses the button.
  const theme = document.getElementById("theme");
  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => { theme.querySelector("span").textContent = isDark() ? "Light" : "Dark"; };
  const store = (value) => { try { return value ? localStorage.setItem("theme", value) : localStorage.getItem("theme"); } catch { return null; } };
  const kept = store();
  if (kept === "light" || kept === "dark") root.dataset.theme = kept;
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; store(root.dataset.theme); name(); });
  name();

  // Sorting: the first press puts the better values on top, the second one turns round; cells without a value stay last.
  const table = document.getElementById("scores");
  const heads = all("thead th", table).filter((head) => head.hasAttribute("aria-sort"));
  const column = (head) => {
    const [top, below] = all("thead tr", table).map((row) => [...row.children]);
    if (below.includes(head)) return 2 + below.indexOf(head);
    const place = top.indexOf(head), metrics = top.length - (heads.length - below.length);
    return place < 2 ? place : place - metrics + below.length;
  };
  for (const head of heads) {
    const button = head.querySelector("button"), place = column(head);
    button.addEventListener("click", () => {
      const first = button.dataset.down ? "descending" : "ascending";
      const turned = first === "ascending" ? "descending" : "ascending";
      const way = head.getAttribute("aria-sort") === first ? turned : first;
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", way);
      const value = (row) => { const text = row.children[place].dataset.sort; return text === undefined ? NaN : Number(text); };
      const rows = all("tbody tr", table).sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return way === "ascending" ? x - y : y - x;
      });
      table.tBodies[0].append(...rows);
      tell(`Sorted by ${button.getAttribute("aria-label") || button.textContent}, ${way}`);
    });
  }

  // Sliders show one picture of many.
  for (const slider of all("input[data-slides]")) {
    const values = slider.dataset.values.split(",");
    const slides = all("[data-slide]", document.getElementById(slider.dataset.slides));
    const show = () => {
      for (const slide of slides) slide.classList.toggle("on", slide.dataset.slide === slider.value);
      slider.setAttribute("aria-valuetext", values[slider.value]);
      slider.parentElement.querySelector("output").textContent = values[slider.value];
    };
    slider.addEventListener("input", show);
    show(); // browsers remember where a slider stood
  }

  // Which variants are shown, everywhere on the page.
  const filter = document.querySelector(".filter");
  if (filter) {
    const boxes = all("input", filter), style = document.getElementById("filtered");
    const apply = () => {
      const hidden = boxes.filter((box) => !box.checked);
      style.textContent = hidden.map((box) => `[data-v="${box.value}"]{display:none!important}`).join("");
      document.getElementById("shown").textContent = hidden.length ? `${boxes.length - hidden.length} of ${boxes.length}` : `all ${boxes.length}`;
    };
    filter.addEventListener("change", apply);
    for (const button of all("button", filter)) {
      button.addEventListener("click", () => { for (const box of boxes) box.checked = button.dataset.all === "1"; apply(); });
    }
    apply();
  }

  // One line of many, by keys and fingers too: the others turn pale.
  const highlight = document.getElementById("highlight");
  highlight?.addEventListener("change", () => {
    const one = `[data-v="${highlight.value}"]`;
    const others = `.chart :is(g,.tag,.lead)[data-v]:not(${one}){opacity:.12}`;
    const rule = `${others}.chart g${one} path.line{stroke-width:4}.chart .dim${one}{--k:var(--ink)}.chart text.dim${one}{fill:var(--ink)}`;
    document.getElementById("highlighted").textContent = highlight.value ? rule : "";
  });

  // Copying works without a permission, too: then the words are selected and copied the old way, or left selected.
  const copied = async (code) => {
    try { await navigator.clipboard.writeText(code.textContent); return true; } catch { /* not allowed here */ }
    getSelection().selectAllChildren(code);
    try { return document.execCommand("copy"); } catch { return false; }
  };
  for (const button of all(".copy")) {
    button.addEventListener("click", async () => {
      const worked = await copied(button.parentElement.querySelector("code"));
      button.textContent = worked ? "Copied" : "Press Ctrl+C";
      tell(button.textContent);
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  // On paper the settings that all share are open, once, and what differs stands in a table; afterwards it is as it was.
  let opened = [];
  addEventListener("beforeprint", () => { opened = all("details.common:not([open])"); for (const one of opened) one.open = true; });
  addEventListener("afterprint", () => { for (const one of opened) one.open = false; opened = []; });
})();
