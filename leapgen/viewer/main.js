// Which view is shown follows from the address: "" the study, "#problem/arm/group/path/block" a run.

const data = JSON.parse(document.getElementById("data").textContent);
const study = data.study ? new StudyView(data.study, data.title, data.runs) : null;
const main = h("main", { id: "main" });
const trail = h("nav", { "aria-label": "Where this is" });
let view = null; // the run that is open
let shown = null; // its number
let scrolled = 0; // of the study, to come back to

document.body.append(h("div", { class: "top" }, trail, themeButton()), main);

const same = (one, other) => JSON.stringify(one.map(String)) === JSON.stringify(other.map(String));

/** A run, inflated. */
async function inflate(i) {
  const text = atob(document.getElementById(`run-${i}`).textContent);
  const packed = Uint8Array.from(text, (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** Of an address: the run's number, and path and block, if it names them. */
function place() {
  const parts = address();
  const where = study ? parts.slice(0, 3) : [];
  const [path, block] = (study ? parts.slice(3) : parts).map((part) => Number.parseInt(part, 10));
  const run = study ? data.runs.findIndex((named) => same(named, where)) : 0;
  return { where, run, path: path ?? 0, row: block > 0 ? block - 1 : -1 };
}

async function show() {
  const { where, run, path, row } = place();
  if (study && where.length < 3) return showStudy();
  if (view && run === shown) return view.select(path, row);
  if (!view && study?.element.isConnected) scrolled = scrollY;
  if (run < 0) {
    return notice(`The run ${where.join(" / ")} is not in this page. leapgen show FILE --html PAGE makes a page of one.`);
  }
  let opened;
  try {
    opened = await inflate(run);
  } catch (error) {
    return notice(`This run cannot be opened: ${error.message}. The page needs a browser of 2023 or later.`);
  }
  if (place().run !== run) return; // gone elsewhere meanwhile
  const named = study ? data.runs[run] : [];
  shown = run;
  view = new RunView(opened, (to, block) => note([...named, to, ...(block === null ? [] : [block])]));
  if (study) document.title = `${named.slice(0, 2).join(", ")} – ${data.title}`;
  trail.replaceChildren(...(study ? steps(named) : []));
  main.replaceChildren(view.element);
  scrollTo(0, 0);
  view.select(path, row);
}

function showStudy() {
  if (study.element.isConnected) return;
  view = shown = null;
  document.title = data.title;
  trail.replaceChildren();
  main.replaceChildren(study.element);
  scrollTo(0, scrolled);
}

function notice(words) {
  view = shown = null;
  trail.replaceChildren(...(study ? [home()] : []));
  main.replaceChildren(h("p", { class: "warning", role: "status" }, words));
}

const home = () => h("a", { href: "#" }, "← ", data.title);

/** Back to the study, and to other runs of the page: another problem, arm or group. */
function steps(named) {
  const choice = (place, label) => {
    const values = [...new Set(data.runs.map((parts) => String(parts[place])))];
    if (values.length < 2) return h("span", {}, h("span", { class: "label" }, label), named[place]);
    const select = h("select", { "aria-label": label, onchange: () => {
      const wanted = named.map((part, i) => (i === place ? select.value : String(part)));
      const near = (parts) => sum(wanted.map((part, i) => (String(parts[i]) === part ? (i === place ? 4 : 1) : 0)));
      location.hash = link([...data.runs].sort((a, b) => near(b) - near(a))[0]);
    } }, values.map((value) => h("option", { value, selected: value === String(named[place]) }, value)));
    return h("label", {}, h("span", { class: "label" }, label), select);
  };
  return [home(), choice(0, "problem"), choice(1, "arm"), choice(2, "group")];
}

addEventListener("hashchange", show);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !view) return;
  if (["SELECT", "TEXTAREA"].includes(document.activeElement?.tagName)) return;
  if (view.key(event)) event.preventDefault();
  else if (event.key === "Escape" && study) location.hash = "";
});
show();
