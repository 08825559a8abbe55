// Elements, numbers, links. Text enters the page as text nodes and in no other way.

const SVG = "http://www.w3.org/2000/svg";

/** An element. Of `attributes`, on* are listeners, and style is an object of CSS properties. Children are nodes or text. */
function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") for (const [key, to] of Object.entries(value)) element.style.setProperty(key, to);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => ![null, undefined, false, ""].includes(child)));
  return element;
}

const number = (value) => value.toLocaleString("en-US").replaceAll(",", "\u202f");
const counted = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;
const percent = (value, sign = false) =>
  `${sign && value > 0 ? "+" : ""}${(100 * value).toFixed(1)}`.replace("-", "\u2212");
const sum = (values) => values.reduce((total, value) => total + value, 0);
const range = (length) => Array.from({ length }, (_, i) => i);

const KINDS = ["beginning", "own", "trigger", "summary", "closing", "comment", "forced", "answer"];
const KIND_NAMES = {
  beginning: "given beginning", own: "own reasoning", trigger: "trigger", summary: "summary", closing: "closing tag",
  comment: "peers’ words", forced: "forced phrase", answer: "answer", discarded: "discarded",
};

/** One line of at most so many characters. */
function short(text, limit) {
  const line = text.replace(/\s+/g, " ").trim();
  const characters = Array.from(line);
  return characters.length > limit ? characters.slice(0, limit - 1).join("") + "…" : line;
}

/** A text, whole if it is short; else its beginning, and the whole a click away. */
function folded(text, limit, tag) {
  if (text.length <= limit) return h(tag, { class: "asked" }, text);
  return h("details", { class: "excerpt" }, h("summary", { class: "asked" }, h(tag, { class: "asked" }, short(text, limit))),
    h("p", { class: "asked" }, text));
}

/** A setting's value as Python would write it. */
function plain(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Name and value, one a row; what is itself a mapping becomes rows of its own. */
function listed(values, caption) {
  const rows = [];
  const add = (prefix, mapping) => {
    for (const [name, value] of Object.entries(mapping)) {
      if (value !== null && typeof value === "object" && !Array.isArray(value)) add(`${prefix}${name}.`, value);
      else rows.push([prefix + name, typeof value === "number" && Number.isInteger(value) && value > 9999 ? number(value)
        : plain(value)]);
    }
  };
  add("", values);
  return h("table", { class: "listed" }, h("caption", {}, caption),
    h("tbody", {}, rows.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value)))));
}

/** A bar of parts: [size, class, label]. The parts' own words are for those who cannot see it. */
function stackedBar(parts, total, label) {
  let at = 0;
  const bar = svg("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img",
    "aria-label": label });
  for (const [size, kind, title] of parts) {
    if (!size) continue;
    bar.append(svg("rect", { x: (100 * at) / total, y: 0, width: (100 * size) / total, height: 10, class: kind },
      svg("title", {}, title)));
    at += size;
  }
  return bar;
}

const link = (parts) => "#" + parts.map((part) => encodeURIComponent(part)).join("/");

/** The address's parts; what is not well formed is no address. */
function address() {
  try {
    return location.hash.slice(1).split("/").filter(Boolean).map(decodeURIComponent);
  } catch {
    return [];
  }
}

/** Puts the address where it can be copied, without a step in the history. */
function note(parts) {
  try {
    history.replaceState(history.state, "", link(parts));
  } catch { /* a page without an address of its own, as in a notebook */ }
}

/** A button that goes from the system's colours to light, to dark and back. */
function themeButton() {
  const names = ["system", "light", "dark"];
  const stored = () => { try { return localStorage.getItem("leapgen-theme"); } catch { return null; } };
  const button = h("button", { type: "button", class: "quiet", id: "theme", onclick: () => {
    const next = names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length];
    try { localStorage.setItem("leapgen-theme", next); } catch { /* then it lasts as long as the page */ }
    show(next);
  } });
  const show = (name) => {
    document.documentElement.dataset.theme = name;
    button.textContent = `colours: ${name}`;
  };
  show(names.includes(stored()) ? stored() : "system");
  return button;
}
