{
const gallery = document.querySelector(".gallery"), cards = gallery.querySelector(".cards");
const viewer = document.querySelector(".viewer"), stage = viewer.querySelector(".stage");
const [byClass, byReason, byName] = ["class", "reason", "name"].map(each => gallery.querySelector(`[name=${each}]`));
const more = gallery.querySelector(".more"), count = gallery.querySelector(".count");
const sliders = [...document.querySelectorAll("input.slider")], PAGE = Number(cards.dataset.page);
const entries = [...cards.children].map(card => entry(card.dataset.marks, card.dataset.name, card));
let found = entries, shown = entries.length, at = 0, swiped = 0;

function entry(marks, name, card, html) {
  return {marks, name: name.toLowerCase(), card, html};
}
for (const [marks, name, html] of JSON.parse(document.getElementById("rest").textContent)) {
  entries.push(entry(marks, name, null, html));
}
function cardOf(each) {
  if (!each.card) {
    const made = document.createElement("template");
    made.innerHTML = each.html;
    each.card = made.content.firstElementChild;
    each.html = null;
    if (byClass.value) choose(each.card, byClass.value);
  }
  return each.card;
}
function showMore() {
  const next = found.slice(shown, shown + PAGE).map(cardOf);
  cards.append(...next);
  shown += next.length;
  say();
}
function say() {
  more.hidden = shown >= found.length;
  count.textContent = found.length === entries.length
    ? `${entries.length} images` : `${found.length} of ${entries.length} images`;
}
function filter() {
  const marks = [byClass.value && `|c${byClass.value}|`, byReason.value && `|r${byReason.value}|`];
  const name = byName.value.trim().toLowerCase();
  found = entries.filter(each => marks.every(mark => each.marks.includes(mark)) && each.name.includes(name));
  cards.replaceChildren();
  shown = 0;
  showMore();
  if (byClass.value) for (const card of cards.children) choose(card, byClass.value);
}
// the maps of one class, if the image has some
function choose(card, of) {
  const maps = [...card.querySelectorAll("img[data-of]")];
  if (!maps.some(map => map.dataset.of === of)) return;
  for (const map of maps) map.hidden = map.dataset.of !== of;
  for (const each of card.querySelectorAll("button[data-of]")) each.setAttribute("aria-pressed", each.dataset.of === of);
}
function layer(value) {
  document.documentElement.style.setProperty("--s", value);
  for (const each of sliders) each.value = value;
  for (const each of document.querySelectorAll("button[data-layer]")) {
    each.setAttribute("aria-pressed", Math.abs(each.dataset.layer - value) < .5);
  }
}
function view(index) {
  if (!found.length) return;
  at = (index + found.length) % found.length;
  while (shown <= at) showMore();
  const card = cardOf(found[at]).cloneNode(true);
  card.querySelector(".stack").tabIndex = -1;
  stage.replaceChildren(card);
  viewer.querySelector(".place").textContent = `${at + 1} of ${found.length}`;
  if (!viewer.open) viewer.showModal();
}
// to the next card that is shown, without the viewer
function walk(step) {
  const here = found.findIndex(each => each.card && each.card.contains(document.activeElement));
  at = Math.min(Math.max(here < 0 ? 0 : here + step, 0), found.length - 1);
  if (at < 0) return;
  while (shown <= at) showMore();
  cardOf(found[at]).querySelector(".stack").focus();
}
document.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (!button) return;
  const card = button.closest(".card");
  if (button.dataset.layer) layer(button.dataset.layer);
  else if (button.dataset.turn) view(at + Number(button.dataset.turn));
  else if (button === more) showMore();
  else if (button.dataset.of) {
    choose(card, button.dataset.of);
    if (viewer.contains(card)) choose(cardOf(found[at]), button.dataset.of);
  } else if (card && !viewer.contains(card)) view(found.findIndex(each => each.card === card));
  else if (button.classList.contains("close")) viewer.close();
});
document.addEventListener("input", event => {
  if (event.target.classList.contains("slider")) layer(event.target.value);
  else if (event.target.classList.contains("strength")) {
    document.documentElement.style.setProperty("--strength", event.target.value);
    for (const each of document.querySelectorAll("input.strength")) each.value = event.target.value;
  } else if (event.target === byName) filter();
});
for (const each of [byClass, byReason]) each.addEventListener("change", filter);
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("select, [type=search]")) return;
  const turn = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  const layers = Number(sliders[0].max) + 1;
  if (event.key >= "1" && event.key <= String(layers)) layer(event.key - 1);
  else if (event.key === "/" && !viewer.open) byName.focus();
  else if (turn && event.target.type === "range") return;
  else if (turn && viewer.open) view(at + turn);
  else if (turn) walk(turn);
  else return;
  event.preventDefault();
});
stage.addEventListener("touchstart", event => { swiped = event.touches[0].clientX; }, {passive: true});
stage.addEventListener("touchend", event => {
  const way = event.changedTouches[0].clientX - swiped;
  if (Math.abs(way) > 40) { view(at - Math.sign(way)); event.preventDefault(); }
});
viewer.addEventListener("close", () => cardOf(found[at]).querySelector(".stack").focus());
document.documentElement.classList.add("js");
layer(sliders[0].value);
say();
}
