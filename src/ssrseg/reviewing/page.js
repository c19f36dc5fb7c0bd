// The page of a review. Every change is a request; what the page shows as saved is on the disk.
{
const one = query => document.querySelector(query), all = query => [...document.querySelectorAll(query)];
const field = name => one(`[name=${name}]`);
const token = field("review-token").content;
const view = one(".view"), sheet = one(".sheet"), photo = one(".sheet img"), canvas = one(".sheet canvas");
const pen = canvas.getContext("2d"), cursor = one(".cursor"), rows = one(".rows");
const PAGE = 200, UNDECIDED = 255, HISTORY = 300, CHIP = {accepted: "accepted", rejected: "rejected", "": "to do"};

let folder, images = [], listed = [], shown = PAGE;
let at = -1, detail = null, ids = null, width = 0, height = 0, pixels = null;
let tool = "look", brush = 1, zoom = 1, spot = null, stroke = null;
const past = [], future = [], chains = new Map(), versions = new Map(), busy = new Map();
let pending = 0, preview = 0;
// between the slider's first step and the next mask from the disk: what is shown may be a preview
let previewed = false, sliding = false;

// ---- requests

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer: `ssrseg review` has ended. What was shown as saved is on the disk.");
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  let said = text;
  try { said = JSON.parse(text).error ?? text; } catch { /* plain text */ }
  const error = new Error(said || `The server answers ${answer.status}.`);
  error.status = answer.status;
  throw error;
}
const asked = async path => (await ask(path)).json();
const headers = kind => ({"Content-Type": kind, "X-Review-Token": token});
async function send(path, body) {
  return (await ask(path, {method: "POST", headers: headers("application/json"), body: JSON.stringify(body)})).json();
}
async function maskOf(path) {
  const answer = await ask(path), [w, h] = answer.headers.get("X-Size").split(" ").map(Number);
  return {ids: new Uint8Array(await answer.arrayBuffer()), width: w, height: h};
}
// one change of an image after the other; those of other images do not wait
function change(index, work) {
  pending += 1;
  say("saving …");
  const next = (chains.get(index) ?? Promise.resolve()).then(work).then(
    () => { pending -= 1; if (!pending) say("saved"); },
    error => { pending -= 1; complain(error); return making(index, () => {}); },
  );
  chains.set(index, next);
  return next;
}
function learn(index, found) {
  versions.set(index, found.version);
  images[index] = found;
  if (index === at) { detail = found; showDetail(); }
  showCounts();
  const row = rows.querySelector(`[data-index="${index}"]`);
  if (row) row.replaceWith(rowOf(index));
}
const post = async (index, what, body) =>
  learn(index, await send(`api/images/${index}/${what}`, {...body, version: versions.get(index)}));
async function put(index, mask, size) {
  const [w, h] = size;
  const path = `api/images/${index}/mask?width=${w}&height=${h}&version=${versions.get(index)}`;
  const answer = await ask(path, {method: "PUT", headers: headers("application/octet-stream"), body: mask});
  learn(index, await answer.json());
}
// while a mask is made and until it is shown, nobody paints on the earlier one
async function making(index, work) {
  busy.set(index, (busy.get(index) ?? 0) + 1);
  showBusy();
  try {
    await work();
  } finally {
    if (index === at) await load(index);
    busy.set(index, busy.get(index) - 1);
    showBusy();
  }
}
const showBusy = () => document.body.classList.toggle("busy", isBusy(at) || !detail);
const isBusy = index => (busy.get(index) ?? 0) > 0;
function say(text) { one(".status").textContent = text; }
function complain(error) {
  const fault = one(".fault");
  fault.textContent = error.message;
  fault.hidden = false;
  say("");
}

// ---- history: the state of an image before and after

const LONGEST = (1 << 24) - 1;
function pack(mask) {
  const runs = [];
  for (let start = 0, end = 0; start < mask.length; start = end) {
    while (end < mask.length && mask[end] === mask[start] && end - start < LONGEST) end += 1;
    runs.push((mask[start] << 24 | end - start) >>> 0);
  }
  return Uint32Array.from(runs);
}
function unpack(runs, length) {
  const mask = new Uint8Array(length);
  let start = 0;
  for (const run of runs) start += (mask.fill(run >>> 24, start, start + (run & LONGEST)), run & LONGEST);
  return mask;
}
// as it is on the disk: what is shown may be a preview
async function stored(index) {
  const mask = await maskOf(`api/images/${index}/mask`);
  return {labels: images[index].labels, decision: images[index].decision, mask: pack(mask.ids), size: [mask.width, mask.height]};
}
const stateOf = (index, mask) => ({labels: images[index].labels, decision: images[index].decision, mask: mask && pack(mask), size: [width, height]});
// steps of a slider are one change
function remember(index, before, after, slider = "") {
  const last = past.at(-1);
  if (slider && last?.slider === slider && last.index === index) last.after = after;
  else past.push({index, before, after, slider});
  if (past.length > HISTORY) past.shift();
  future.length = 0;
  showHistory();
}
const alike = (one, other) => one.length === other.length && one.every((each, place) => each === other[place]);
async function restore(entry, wanted) {
  if (entry.index !== at) await open(entry.index);
  const {index} = entry, {size} = wanted;
  await change(index, () => making(index, async () => {
    if (!alike(images[index].labels, wanted.labels)) await post(index, "labels", {labels: wanted.labels});
    if (wanted.mask && editable()) await put(index, unpack(wanted.mask, size[0] * size[1]), size);
    if (images[index].decision !== wanted.decision) await post(index, "decision", {decision: wanted.decision});
  }));
  showList();
}
async function step(from, to, side) {
  await Promise.all(chains.values());
  const entry = from.pop();
  if (!entry) return;
  to.push(entry);
  showHistory();
  await restore(entry, entry[side]);
}
function showHistory() {
  one("[data-do=undo]").disabled = !past.length;
  one("[data-do=redo]").disabled = !future.length;
}

// ---- the list

function isListed(each) {
  const state = field("state").value, name = field("name").value.trim().toLowerCase(), of = field("class").value;
  const fits = {
    open: !each.decision, all: true, doubted: each.reasons.some(reason => /^(hardly )?looks like /.test(reason)), edited: each.edited, relabelled: each.given !== null,
    accepted: each.decision === "accepted", rejected: each.decision === "rejected",
  }[state];
  return fits && each.name.toLowerCase().includes(name) && (!of || each.labels.includes(of));
}
function rowOf(index) {
  const each = images[index], row = document.createElement("li"), button = document.createElement("button");
  row.dataset.index = index;
  row.className = each.decision;
  button.dataset.open = index;
  button.setAttribute("aria-current", index === at);
  const mark = document.createElement("i"), name = document.createElement("span"), score = document.createElement("small");
  mark.textContent = {accepted: "✓", rejected: "✗", "": each.edited || each.given ? "✎" : ""}[each.decision];
  name.textContent = name.title = each.name;
  score.textContent = each.score === null ? "" : each.score.toFixed(2);
  button.append(mark, name, score);
  row.append(button);
  return row;
}
function showList() {
  listed = images.flatMap((each, index) => isListed(each) ? [index] : []);
  rows.replaceChildren(...listed.slice(0, shown).map(rowOf));
  one("[data-do=more]").hidden = shown >= listed.length;
  showPlace();
}
function showCounts() {
  const count = decision => images.filter(each => each.decision === decision).length;
  one(".counts").textContent = `${count("")} to do, ${count("accepted")} accepted, ${count("rejected")} rejected`;
}
function showPlace() {
  const place = listed.indexOf(at);
  one(".place").textContent = place < 0 ? `not in this list of ${listed.length}` : `${place + 1} of ${listed.length}`;
}
// the next image of the list; from one that is in it no longer, the first one behind it
function neighbour(way) {
  const place = listed.indexOf(at);
  if (place >= 0) return listed[place + way];
  return way > 0 ? listed.find(index => index > at) : listed.findLast(index => index < at);
}
function walk(way) {
  const index = neighbour(way);
  if (index !== undefined) open(index); else say(way > 0 ? "the last one" : "the first one");
}

// ---- one image

async function open(index) {
  at = index;
  detail = ids = stroke = spot = null;
  previewed = sliding = false;
  showBusy();
  field("threshold").value = 0;
  [zoom, extra] = [1, []];
  if (brush === UNDECIDED) brush = -1;  // the first label, and not stripes, of the next image
  for (const each of rows.querySelectorAll("button")) each.setAttribute("aria-current", Number(each.dataset.open) === at);
  rows.querySelector("[aria-current=true]")?.scrollIntoView({block: "nearest"});
  showPlace();
  await chains.get(index);
  await load(index);
}
async function load(index) {
  try {
    const found = await asked(`api/images/${index}`), mask = await maskOf(`api/images/${index}/mask`);
    if (index !== at) return;
    [ids, width, height] = [mask.ids, mask.width, mask.height];
    previewed = false;
    canvas.width = width;
    canvas.height = height;
    pixels = pen.createImageData(width, height);
    const source = found.photo ? `api/images/${index}/photo.jpg` : "";
    if (photo.getAttribute("src") !== source) source ? photo.setAttribute("src", source) : photo.removeAttribute("src");
    learn(index, found);
    fit();
    draw(0, 0, width, height);
  } catch (error) {
    if (index === at) one("h2").textContent = images[index].name;
    complain(error);
  }
}
// a mask that was too large came smaller, and a photograph that is not there shows nothing to paint by
const editable = () => detail && detail.photo && !detail.problem && ids && ids.length === detail.size[0] * detail.size[1];

function showDetail() {
  one("h2").textContent = detail.name;
  document.title = `${detail.name}: review`;
  one(".chip").textContent = CHIP[detail.decision] + (detail.edited ? ", corrected" : "");
  one(".chip").className = `chip ${detail.decision}`;
  one(".score").textContent = detail.score === null ? "" : `score ${detail.score.toFixed(2)}`;
  one(".why").textContent = detail.edited ? "" : detail.reasons.join("; ");
  for (const [name, decision] of [["accept", "accepted"], ["reject", "rejected"], ["open", ""]]) {
    one(`[data-do=${name}]`).setAttribute("aria-pressed", detail.decision === decision);
  }
  const large = detail.photo && ids && ids.length !== detail.size[0] * detail.size[1];
  const problem = [detail.problem, large && "This mask is too large to be brushed here.", detail.outdated].filter(Boolean).join(" ");
  one(".problem").textContent = problem;
  one(".problem").hidden = !problem;
  showBusy();
  showLabels();
  one(".threshold").hidden = !(detail.threshold && editable());
  showThreshold();
  one(".brush").disabled = !editable();
  one("[data-do=reset]").hidden = !(detail.as_made && editable());
  showPalette();
}
function showLabels() {
  one(".labels").hidden = !folder.from_labels;
  one(".labels").disabled = Boolean(detail.problem);
  one(".chips").replaceChildren(...detail.labels.map(label => {
    const chip = document.createElement("li"), away = document.createElement("button");
    chip.append(swatch(folder.classes.indexOf(label) + 1), label, away);
    away.textContent = "×";
    away.dataset.unlabel = label;
    away.setAttribute("aria-label", `take away ${label}`);
    return chip;
  }));
  const given = one(".given");
  given.hidden = detail.given === null;
  given.textContent = detail.given === null ? "" : `in the data: ${detail.given.join(", ") || "none"}`;
  const likely = Object.entries(detail.evidence ?? {}).filter(([label, much]) => much >= .1 && !detail.labels.includes(label));
  const hints = likely.sort((one, other) => other[1] - one[1]).slice(0, 4).map(([label]) => {
    const hint = document.createElement("button");
    hint.textContent = `+ ${label}`;
    hint.dataset.label = label;
    return hint;
  });
  one(".hints").replaceChildren(...hints.length ? ["looks like ", ...hints.flatMap(hint => [hint, " "])] : []);
  const next = detail.edited ? "and the mask that was painted with them" : "and the next `ssrseg masks` makes their mask";
  one(".encoders").textContent = whyKept() ? `Other labels are kept, ${next}; no mask is made here: ${whyKept()}.` : "";
}
// why other labels do not make another mask here
const whyKept = () => folder.encoders.why || (detail.tiled ? "this image is seen in tiles" : "");
function swatch(id) {
  const mark = document.createElement("i");
  mark.className = id === UNDECIDED ? "colour undecided" : "colour";
  if (id && id !== UNDECIDED) mark.style.background = folder.colours[id - 1];
  return mark;
}
const nameOf = id => id === UNDECIDED ? "undecided" : id ? folder.classes[id - 1] : "background";
// classes that can be chosen by a digit: the labels, then what else the mask shows
let offered = [], extra = [];
function showPalette() {
  const there = new Set();
  if (ids) for (let place = 0; place < ids.length; place += 1) there.add(ids[place]);
  const labels = (detail?.labels ?? []).map(label => folder.classes.indexOf(label) + 1);
  const others = [...there].filter(id => id && id !== UNDECIDED && !labels.includes(id)).sort((one, other) => one - other);
  offered = [...new Set([...labels, ...others, ...extra])];
  if (brush !== UNDECIDED && !offered.includes(brush)) brush = offered[0] ?? UNDECIDED;
  const buttons = [...offered, UNDECIDED].map((id, place) => {
    const item = document.createElement("li"), button = document.createElement("button"), key = document.createElement("kbd");
    button.dataset.brush = id;
    button.setAttribute("aria-pressed", id === brush);
    key.textContent = id === UNDECIDED ? "" : place < 9 ? place + 1 : "";
    button.append(swatch(id), nameOf(id), ...(key.textContent ? [" ", key] : []));
    item.append(button);
    return item;
  });
  one(".palette").replaceChildren(...buttons);
}
function choose(id) {
  brush = id;
  if (id !== UNDECIDED && !offered.includes(id)) extra.push(id);
  if (tool === "look") setTool("paint");
  showPalette();
}

// ---- drawing

let table = new Uint32Array(256);
function colours() {
  const words = new Uint32Array(1), bytes = new Uint8Array(words.buffer);
  folder.colours.forEach((colour, place) => {
    bytes.set([1, 3, 5].map(start => parseInt(colour.slice(start, start + 2), 16)));
    bytes[3] = 255;
    table[place + 1] = words[0];
  });
}
function draw(left, top, right, bottom) {
  [left, top, right, bottom] = [Math.max(0, left - 1), Math.max(0, top - 1), Math.min(width, right + 1), Math.min(height, bottom + 1)];
  const into = new Uint32Array(pixels.data.buffer), stripe = Math.max(4, Math.round(Math.min(width, height) / 60));
  for (let y = top; y < bottom; y += 1) {
    for (let x = left, place = y * width + left; x < right; x += 1, place += 1) {
      const id = ids[place];
      const edge = id && (x && ids[place - 1] !== id || y && ids[place - width] !== id
        || x + 1 < width && ids[place + 1] !== id || y + 1 < height && ids[place + width] !== id);
      if (id === UNDECIDED) into[place] = (x + y) % (2 * stripe) < stripe ? 0xffffffff : 0xff000000;
      else into[place] = edge ? 0xffffffff : table[id];
    }
  }
  pen.putImageData(pixels, 0, 0, left, top, right - left, bottom - top);
}
function fit() {
  if (!detail) return;
  const room = Math.min(view.clientWidth / detail.size[0], view.clientHeight / detail.size[1]);
  const scale = room * zoom;
  sheet.style.width = `${detail.size[0] * scale}px`;
  sheet.style.height = `${detail.size[1] * scale}px`;
  sheet.style.marginTop = `${Math.max(0, (view.clientHeight - detail.size[1] * scale) / 2)}px`;
  showCursor();
}
function enlarge(factor) {
  // what is in the middle stays there
  const middle = ["Left", "Top"].map(side => {
    const [length, room] = side === "Left" ? ["scrollWidth", "clientWidth"] : ["scrollHeight", "clientHeight"];
    return {side, length, room, share: (view[`scroll${side}`] + view[room] / 2) / view[length]};
  });
  zoom = factor ? Math.min(32, Math.max(1, zoom * factor)) : 1;
  fit();
  for (const {side, length, room, share} of middle) view[`scroll${side}`] = share * view[length] - view[room] / 2;
}
function opacity(value) {
  field("opacity").value = value;
  canvas.style.opacity = value;
}

// ---- threshold

const alpha = () => folder.alpha * 2 ** Number(field("threshold").value);
function showThreshold() {
  const value = Number(field("threshold").value);
  one(".threshold output").textContent = value ? `α ${alpha().toPrecision(3)}` : `α ${folder.alpha} as set`;
  one(".threshold .lost").hidden = !detail?.edited;
}
async function previewThreshold() {
  const index = at, run = ++preview;
  previewed = sliding = true;
  showThreshold();
  try {
    const mask = await maskOf(`api/images/${index}/threshold?alpha=${alpha()}&refined=false`);
    if (index !== at || run !== preview || !previewed || isBusy(index) || stroke) return;
    ids = mask.ids;
    draw(0, 0, width, height);
    say("without pixel refinement, until the slider rests");
  } catch (error) {
    complain(error);
  }
}
function setThreshold() {
  const index = at, run = ++preview, value = alpha();
  sliding = false;
  showThreshold();
  change(index, () => making(index, async () => {
    if (run !== preview) return;  // a later one waits behind it
    const before = await stored(index);
    const mask = await maskOf(`api/images/${index}/threshold?alpha=${value}&refined=true`);
    await put(index, mask.ids, [mask.width, mask.height]);
    remember(index, before, {...before, decision: images[index].decision, mask: pack(mask.ids)}, "threshold");
  }));
}
// a slider that is back where it was drawn from changes nothing, and the browser says nothing
function rest() {
  setTimeout(() => {  // behind the change, if there is one
    if (!sliding) return;
    const index = at;
    sliding = false;
    preview += 1;
    say("");
    making(index, () => chains.get(index));
  });
}
function moveThreshold(way) {
  if (one(".threshold").hidden) return;
  field("threshold").stepUp(way);
  setThreshold();
}

// ---- brush

const radius = () => {
  const share = field("size").value / 100;
  return Math.max(.5, share ** 2 * Math.min(width, height) / 4);
};
function setTool(name) {
  tool = name;
  for (const each of all("[data-tool]")) each.setAttribute("aria-pressed", each.dataset.tool === tool);
  view.classList.toggle("painting", tool !== "look");
  if (tool !== "look" && !spot) spot = {x: width / 2, y: height / 2};
  showCursor();
}
function showCursor() {
  cursor.hidden = tool === "look" || !spot || !editable();
  if (cursor.hidden) return;
  const scale = sheet.clientWidth / width, side = `${Math.max(4, 2 * radius() * scale)}px`;
  Object.assign(cursor.style, {width: side, height: side, left: `${spot.x * scale}px`, top: `${spot.y * scale}px`});
}
function pointOf(event) {
  const box = canvas.getBoundingClientRect();
  return {x: (event.clientX - box.left) / box.width * width, y: (event.clientY - box.top) / box.height * height};
}
function begin(point) {
  if (!editable() || isBusy(at) || previewed) return;
  stroke = {index: at, before: stateOf(at, ids), last: point, changed: false};
  extend(point);
}
function extend(point) {
  const size = radius(), from = stroke.last, far = Math.hypot(point.x - from.x, point.y - from.y);
  const steps = Math.max(1, Math.ceil(far / Math.max(.5, size / 3)));
  for (let step = 1; step <= steps; step += 1) {
    dab(from.x + (point.x - from.x) * step / steps, from.y + (point.y - from.y) * step / steps, size);
  }
  stroke.last = point;
  const edge = Math.ceil(size) + 1;
  draw(Math.floor(Math.min(from.x, point.x)) - edge, Math.floor(Math.min(from.y, point.y)) - edge,
    Math.ceil(Math.max(from.x, point.x)) + edge, Math.ceil(Math.max(from.y, point.y)) + edge);
}
function dab(x, y, size) {
  const top = Math.max(0, Math.floor(y - size)), bottom = Math.min(height - 1, Math.ceil(y + size));
  const left = Math.max(0, Math.floor(x - size)), right = Math.min(width - 1, Math.ceil(x + size));
  for (let row = top; row <= bottom; row += 1) {
    for (let column = left; column <= right; column += 1) {
      if ((column + .5 - x) ** 2 + (row + .5 - y) ** 2 > size ** 2) continue;
      const place = row * width + column;
      const next = tool === "paint" ? brush : ids[place] === brush ? 0 : ids[place];
      if (ids[place] !== next) { ids[place] = next; stroke.changed = true; }
    }
  }
}
function end() {
  if (!stroke) return;
  const {index, before, changed} = stroke;
  stroke = null;
  if (!changed || index !== at) return;
  const made = ids.slice(), size = [width, height];
  field("threshold").value = 0;
  change(index, async () => {
    await put(index, made, size);
    remember(index, before, {...before, decision: images[index].decision, mask: pack(made)});
  });
}

// ---- what is decided

async function decide(decision) {
  if (!detail) return;  // nobody decides on a mask that is not shown
  if (isBusy(at) || previewed) { say("the mask is being made: look at it first"); return; }
  const index = at;
  await chains.get(index);  // the mask that is shown is then the one on the disk
  const before = stateOf(index, null);
  if (before.decision !== decision) {
    await change(index, async () => {
      await post(index, "decision", {decision});
      remember(index, before, {...before, decision: images[index].decision});
    });
    if (images[index].decision !== decision) return;
  }
  if (index !== at || !decision) { showList(); return; }
  const next = listed.find(each => each > index) ?? listed.find(each => each !== index);
  showList();
  if (next === undefined) say("nothing is left in this list"); else open(next);
}
function relabel(labels) {
  const index = at;
  if (!detail || detail.problem || isBusy(index) || alike(labels, detail.labels)) return;
  const kept = whyKept(), first = folder.encoders.state !== "ready";
  field("threshold").value = 0;
  change(index, () => making(index, async () => {
    say(kept ? "keeping the labels …" : first ? "loading the encoders, once …" : "making the mask …");
    const before = await stored(index);
    await post(index, "labels", {labels});
    folder.encoders = await asked("api/encoders");
    remember(index, before, await stored(index));
  }));
}
function addLabel(label) {
  const input = field("label"), near = folder.classes.find(each => each.toLowerCase() === label.trim().toLowerCase());
  if (!label.trim()) return;
  if (!near) { complain(new Error(`"${label.trim()}" is no class of this folder (classes.txt).`)); return; }
  input.value = "";
  input.blur();
  if (!detail.labels.includes(near)) relabel(folder.classes.filter(each => each === near || detail.labels.includes(each)));
}
const unlabel = label => relabel(detail.labels.filter(each => each !== label));
function reset() {
  const index = at;
  if (!detail?.as_made || !editable() || isBusy(index)) return;
  field("threshold").value = 0;
  change(index, () => making(index, async () => {
    const before = await stored(index);
    await post(index, "reset", {});
    remember(index, before, await stored(index));
  }));
}
async function write() {
  const result = one(".export .result"), button = one("[data-do=write]");
  button.disabled = true;
  result.textContent = "writing …";
  try {
    const found = await send("api/export", {to: field("to").value, only: field("only").value || null});
    result.textContent = [`${found.written} ${found.written === 1 ? "mask" : "masks"} written to ${found.out}`, found.then, ...found.failures].filter(Boolean).join("\n");
  } catch (error) {
    result.textContent = error.message;
  }
  button.disabled = false;
}

// ---- buttons and keys

const actions = {
  undo: () => step(past, future, "before"), redo: () => step(future, past, "after"),
  accept: () => decide("accepted"), reject: () => decide("rejected"), open: () => decide(""),
  back: () => walk(-1), next: () => walk(1), in: () => enlarge(1.5), out: () => enlarge(1 / 1.5), fit: () => enlarge(0),
  keys: () => one("dialog.keys").showModal(), export: () => { one(".export .result").textContent = ""; one("dialog.export").showModal(); },
  close: () => one("dialog.export").close(), write, reset, more: () => { shown += PAGE; showList(); },
};
document.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (!button || stroke) return;
  const {dataset} = button;
  if (dataset.do) actions[dataset.do]();
  else if (dataset.open) open(Number(dataset.open));
  else if (dataset.tool) setTool(dataset.tool);
  else if (dataset.brush) choose(Number(dataset.brush));
  else if (dataset.unlabel) unlabel(dataset.unlabel);
  else if (dataset.label) addLabel(dataset.label);
  if (!dataset.open && !button.closest("dialog")) view.focus({preventScroll: true});
});
const keys = {
  j: actions.next, k: actions.back, a: actions.accept, x: actions.reject, u: actions.open, z: actions.undo, y: actions.redo,
  Z: actions.redo, w: actions.export, "?": actions.keys, b: () => setTool("paint"), e: () => setTool("erase"), v: () => setTool("look"),
  "[": () => resize(-5), "]": () => resize(5), m: () => opacity(Number(canvas.style.opacity) ? 0 : .6),
  o: () => opacity(Math.max(0, canvas.style.opacity - .1)), p: () => opacity(Math.min(1, Number(canvas.style.opacity) + .1)),
  l: () => field("label").focus(), c: () => field("other").focus(), f: () => field("state").focus(), "/": () => field("name").focus(),
  t: () => field("threshold").focus(), ",": () => moveThreshold(-1), ".": () => moveThreshold(1), r: reset,
  "+": actions.in, "=": actions.in, "-": actions.out, 0: actions.fit,
};
function resize(by) {
  field("size").value = Number(field("size").value) + by;
  showCursor();
}
function moveBrush(event) {
  const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  const far = Math.max(1, radius()) * (event.shiftKey ? 4 : 1);
  spot = {x: Math.min(width, Math.max(0, spot.x + way[0] * far)), y: Math.min(height, Math.max(0, spot.y + way[1] * far))};
  showCursor();
}
document.addEventListener("keydown", event => {
  const typing = event.target.matches?.("select, input[type=search], input[name=label]"), range = event.target.type === "range";
  if (event.key === "Escape" && (typing || range)) { event.target.blur(); view.focus({preventScroll: true}); return; }
  if (event.target.name === "label" && event.key === "Enter") { addLabel(event.target.value); event.preventDefault(); return; }
  if (typing || event.altKey || one("dialog[open]")) return;
  if (stroke) { event.preventDefault(); return; }  // first the stroke comes to its end
  if (event.repeat && "axu".includes(event.key)) return;  // a key that is held decides once
  if (event.ctrlKey || event.metaKey) {
    const again = event.key === "y" || event.key === "Z" || event.key === "z" && event.shiftKey;
    if (again) actions.redo(); else if (event.key === "z") actions.undo(); else return;
  } else if (event.key.startsWith("Arrow")) {
    if (range) return;
    if (tool !== "look" && spot) moveBrush(event);
    else if (event.key === "ArrowRight") walk(1);
    else if (event.key === "ArrowLeft") walk(-1);
    else return;
  } else if (event.key === " " && tool !== "look" && spot && !event.target.closest("button")) {
    begin(spot);
    end();
  } else if (event.key >= "1" && event.key <= "9") {
    if (offered[event.key - 1] !== undefined) choose(offered[event.key - 1]);
  } else if (event.key === "Backspace" && event.shiftKey) {
    if (detail?.labels.length && folder.from_labels) unlabel(detail.labels.at(-1));
  } else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
});
canvas.addEventListener("pointerdown", event => {
  if (tool === "look" || event.button || !ids) return;
  canvas.setPointerCapture(event.pointerId);
  begin(spot = pointOf(event));
  event.preventDefault();
});
canvas.addEventListener("pointermove", event => {
  if (tool === "look" || !ids) return;
  spot = pointOf(event);
  if (stroke) for (const each of event.getCoalescedEvents?.() ?? [event]) extend(pointOf(each));
  showCursor();
});
for (const ending of ["pointerup", "pointercancel"]) canvas.addEventListener(ending, end);
view.addEventListener("wheel", event => {
  if (!event.ctrlKey) return;
  enlarge(event.deltaY < 0 ? 1.2 : 1 / 1.2);
  event.preventDefault();
}, {passive: false});
field("opacity").addEventListener("input", event => opacity(event.target.value));
field("threshold").addEventListener("input", previewThreshold);
field("threshold").addEventListener("change", setThreshold);
for (const ending of ["pointerup", "pointercancel", "blur"]) field("threshold").addEventListener(ending, rest);
field("size").addEventListener("input", showCursor);
field("other").addEventListener("change", event => { choose(Number(event.target.value)); event.target.blur(); });
field("label").addEventListener("focus", () => { if (detail && !whyKept()) send("api/encoders", {}).catch(complain); });
field("label").addEventListener("change", event => { if (folder.classes.includes(event.target.value)) addLabel(event.target.value); });
for (const name of ["state", "class"]) field(name).addEventListener("change", () => { shown = PAGE; showList(); });
field("name").addEventListener("input", () => { shown = PAGE; showList(); });
one(".fault").addEventListener("click", event => { event.target.hidden = true; });
addEventListener("resize", fit);
addEventListener("beforeunload", event => { if (pending) event.preventDefault(); });

function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
}
(async () => {
  try {
    folder = await asked("api/folder");
    images = folder.images;
    colours();
    field("class").append(...folder.classes.map(name => option(name, name)));
    one("#classes").append(...folder.classes.map(name => option(name, "")));
    field("other").append(...folder.classes.map((name, place) => option(place + 1, name)), option(UNDECIDED, "undecided"), option(0, "background"));
    field("to").append(...folder.formats.map(name => option(name, name)));
    opacity(.6);
    showHistory();
    showCounts();
    showList();
    if (!listed.length) { field("state").value = "all"; showList(); }
    await open(listed[0]);
    view.focus({preventScroll: true});
  } catch (error) {
    complain(error);
  }
})();
}
