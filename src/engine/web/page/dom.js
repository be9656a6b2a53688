// Making and changing elements.  What the engine says is text, never markup: nothing here parses HTML.

// el("td", {class: "x", "aria-label": "…", onclick: f, text: "…"}, child, …); null and false children are left out.
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const byId = (id) => document.getElementById(id);

// Only what has changed is touched, so that what somebody selects or a screen reader reads stays where it is.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

export function setAttribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// Makes *container* show *items*, in their order: an element each, which keeps its identity (and so focus, and what is
// unfolded in it) as long as its item's key is there.  make(item) gives {node, update(item)}.
export function sync(container, items, keyOf, make) {
  const old = container.parts ?? new Map();
  const parts = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (parts.has(key)) continue;
    const part = old.get(key) ?? make(item);
    part.update(item);
    parts.set(key, part);
  }
  for (const [key, part] of old) if (!parts.has(key)) part.node.remove();
  let at = container.firstChild;
  for (const part of parts.values()) {
    if (part.node === at) at = at.nextSibling;
    else container.insertBefore(part.node, at);
  }
  container.parts = parts;
}

// A button that is not there for a form.
export const button = (text, onclick, attributes = {}) => el("button", {type: "button", text, onclick, ...attributes});

// A word beside a name: tag("hot", "bad").
export const tag = (text, kind = "") => el("span", {class: `tag ${kind}`, text});

export function setTags(node, tags) {
  const key = JSON.stringify(tags);
  if (node.tagKey === key) return;
  node.tagKey = key;
  node.replaceChildren(...tags.map(([text, kind]) => tag(text, kind)));
}

// A bar with its figure in words: {node, update(share or null, text)}.
export function gauge(label) {
  const bar = el("progress", {max: 1, "aria-label": label});
  const text = el("span", {class: "figure"});
  const node = el("div", {class: "gauge"}, text, bar);
  return {
    node,
    update(share, words, hot = false) {
      setText(text, words);
      setHidden(bar, share === null);
      const value = Math.min(Math.max(share ?? 0, 0), 1);
      if (bar.value !== value) bar.value = value;
      bar.classList.toggle("full", hot);
    },
  };
}
