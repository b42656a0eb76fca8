"""How the page of a report looks, on narrow and wide screens, light and dark, and the little that it does."""

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --quiet: #555; --paper: #fff; --rule: #d9d9d9; --edge: #8885; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --quiet: #a8a8a8; --paper: #16181c; --rule: #3c4048; --edge: #ccc5; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  padding: 1.5rem; max-width: 84rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--rule); padding-bottom: .2rem; }
p { max-width: 46rem; overflow-wrap: break-word; } .quiet { color: var(--quiet); }
.scroll { overflow-x: auto; }
.hint { display: none; font-size: .85rem; color: var(--quiet); margin: .3rem 0; }
.more { box-shadow: inset -1.2rem 0 1rem -1.1rem var(--edge); } .more + .hint { display: block; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
th { border-bottom: 2px solid var(--quiet); vertical-align: bottom; white-space: normal; }
th.key, td.key { text-align: left; }
td.wrap { white-space: normal; min-width: 16rem; overflow-wrap: break-word; }
.figures { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; min-width: 0; break-inside: avoid; } figure.wide { grid-column: 1 / -1; }
.picture { display: block; width: 100%; max-width: 34rem; padding: 0; border: 0; background: none; color: inherit;
  cursor: zoom-in; font: inherit; }
.picture svg { display: block; width: 100%; height: auto; } .wide .picture { max-width: 68rem; min-width: 50rem; }
figcaption { font-size: .85rem; color: var(--quiet); }
dialog { width: 96vw; height: 96vh; max-width: none; max-height: none; box-sizing: border-box; padding: .5rem;
  border: 0; color: var(--ink); background: var(--paper); overflow: auto; }
dialog::backdrop { background: #000a; }
dialog svg { display: block; margin: auto; height: auto; width: max(100%, 50rem); max-width: 100rem; }
dialog button { position: sticky; left: 0; top: 0; font: inherit; padding: .2rem .8rem; }
details { margin: .6rem 0; } summary { cursor: pointer; }
@media (max-width: 40rem) { body { padding: 1rem; } }
@media print {
  :root { color-scheme: light; --ink: #000; --quiet: #444; --paper: #fff; --rule: #ccc; }
  body { padding: 0; font-size: 11px; max-width: none; } .scroll { overflow: visible; }
  .more + .hint { display: none; }
  .figures { grid-template-columns: repeat(2, 1fr); } h2 { break-after: avoid; } .wide .picture { min-width: 0; }
}
"""

# Says where a table goes on beyond the edge, and shows a picture larger. Without it the page can be read all the same.
SCRIPT = """
const look = () => document.querySelectorAll(".scroll").forEach(
  (each) => each.classList.toggle("more", each.scrollWidth > each.clientWidth + 1));
addEventListener("load", look); addEventListener("resize", look); addEventListener("toggle", look, true);
const large = document.querySelector("dialog");
document.querySelectorAll(".picture").forEach((picture) => picture.addEventListener("click", () => {
  large.querySelector("div").replaceChildren(picture.firstElementChild.cloneNode(true));
  large.showModal();
}));
large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
"""

DIALOG = '<dialog><form method="dialog"><button>Close</button></form><div></div></dialog>'
