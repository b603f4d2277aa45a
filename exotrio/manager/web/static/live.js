// Keeps a page current: the server says which fragments changed, and this requests them again.
// Everything works without this script; a reload then shows what is new.
"use strict";
(() => {
  const MIN_MS = 250; // between two requests: at most four a second
  const POLL_MS = 2000; // without events
  const RETRY_MS = 30000; // until events are tried again after they were refused

  for (const close of document.querySelectorAll(".flash > button")) {
    close.hidden = false;
    close.onclick = () => close.parentElement.remove();
  }

  localize(document);

  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey && !event.target.closest("input, select, textarea")) {
      event.preventDefault(); // or the slash is typed into the field
      document.getElementById("search").select();
      return;
    }
    if (event.key !== "Escape") return;
    for (const each of document.querySelectorAll("details.menu[open], details.confirm[open]")) {
      if (each.contains(document.activeElement)) each.querySelector("summary").focus();
      each.removeAttribute("open");
    }
  });

  const address = document.body.dataset.live;
  const line = document.getElementById("live");
  const aside = document.getElementById("aside");
  const button = document.getElementById("pause");
  if (!address || !line || !aside || !button) return;

  let source = null;
  let polling = null;
  let retry = null;
  let timer = null;
  let paused = false;
  let requesting = false;
  let requestedAt = 0;
  let ended = false;
  const wanted = new Set();

  const fragments = () => [...document.querySelectorAll("[data-fragment]")];
  const report = (text, state = "live") => {
    line.dataset.state = state;
    if (line.textContent !== text) line.textContent = text;
  };

  // -- requesting fragments

  function want(names) {
    for (const name of names) wanted.add(name);
    if (timer === null && !requesting) {
      timer = setTimeout(request, Math.max(0, requestedAt + MIN_MS - Date.now()));
    }
  }

  async function request() {
    timer = null;
    if (paused || ended || document.hidden || wanted.size === 0) return;
    requesting = true;
    const names = [...wanted].join(" ");
    wanted.clear();
    try {
      const response = await fetch(location.pathname + location.search, {
        headers: { "X-Fragments": names },
        cache: "no-store",
      });
      if (response.status === 401) return location.reload();
      if (response.status === 404) return end("Gone");
      const text = await response.text();
      if (response.ok && !paused) show(text);
    } catch {
      report("Not reached", "lost");
    } finally {
      requesting = false;
      requestedAt = Date.now();
      if (wanted.size && !ended) want([]);
    }
  }

  // -- showing what arrived

  function show(html) {
    const arrived = new DOMParser().parseFromString(html, "text/html");
    localize(arrived);
    const focused = document.activeElement;
    for (const fresh of arrived.querySelectorAll("[data-fragment]")) {
      const old = document.querySelector(`[data-fragment="${CSS.escape(fresh.dataset.fragment)}"]`);
      // A form that was rejected stays as it was sent.
      if (!old || old.querySelector("form .problem")) continue;
      const before = announced(old);
      update(old, fresh);
      if (before !== undefined && before !== announced(old)) aside.textContent = announced(old);
    }
    if (focused && focused.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
    prepare();
  }

  const announced = (part) => part.querySelector("[data-announce]")?.dataset.announce;

  // Changes only what differs, so that what is focused, selected, ticked, opened or scrolled to stays so.
  function update(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== Node.ELEMENT_NODE) {
      old.nodeValue = fresh.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !(name === "open" && old.localName === "details")) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const children = [...fresh.childNodes];
    const staying = new Set(children.map(keyOf));
    let next = old.firstChild;
    for (const child of children) {
      let found = next;
      // Not past a child that comes later: the new one may be inserted before it.
      while (found && !isSame(found, child)) found = keyOf(found) && staying.has(keyOf(found)) ? null : found.nextSibling;
      if (!found) {
        old.insertBefore(child, next);
        continue;
      }
      while (next !== found) next = removed(next);
      next = found.nextSibling;
      update(found, child);
    }
    while (next) next = removed(next);
  }

  function removed(node) {
    const next = node.nextSibling;
    node.remove();
    return next;
  }

  const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE && (node.id || node.dataset.key)) || "";

  // What a user is about to click never becomes something else under the pointer.
  const NAMES = ["id", "data-key", "href", "action", "type", "name", "value"];
  const isSame = (one, other) =>
    one.nodeName === other.nodeName &&
    (one.nodeType !== Node.ELEMENT_NODE ||
      NAMES.every((name) => one.getAttribute(name) === other.getAttribute(name)));

  // -- events

  function connect() {
    disconnect();
    if (paused || ended || document.hidden) return;
    if (!window.EventSource) return poll();
    source = new EventSource(address);
    source.addEventListener("open", () => {
      stopPolling();
      report("Live");
    });
    source.addEventListener("changed", (event) => {
      if (line.textContent === "Not reached") report("Live");
      want(event.data.split(" "));
    });
    source.addEventListener("error", () => {
      poll();
      if (source && source.readyState === EventSource.CLOSED) retry = setTimeout(connect, RETRY_MS);
    });
  }

  function disconnect() {
    if (source) source.close();
    source = null;
    clearTimeout(retry);
    stopPolling();
  }

  function poll() {
    if (polling !== null || paused || ended) return;
    report("Every 2 s", "polling");
    const all = () => want(fragments().map((each) => each.dataset.fragment));
    polling = setInterval(all, POLL_MS);
    all();
  }

  function stopPolling() {
    clearInterval(polling);
    polling = null;
  }

  function end(text) {
    ended = true;
    disconnect();
    button.hidden = true;
    report(text, "lost");
  }

  // -- times

  // The server gives each time in UTC; this adds the one here.
  function localize(root) {
    for (const each of root.querySelectorAll("time[datetime]")) {
      const local = localTime(new Date(each.dateTime));
      if (local === "") continue;
      if (each.className !== "at") {
        each.title += ` · ${local}`;
        continue;
      }
      const span = document.createElement("span");
      span.textContent = `(${local})`;
      each.append(" ", span);
    }
  }

  function localTime(at) {
    if (Number.isNaN(at.getTime()) || at.getTimezoneOffset() === 0) return "";
    const here = new Date(at.getTime() - at.getTimezoneOffset() * 60000).toISOString();
    const [day, time] = [here.slice(0, 10), here.slice(11, 19)];
    return `${day === at.toISOString().slice(0, 10) ? "" : `${day} `}${time}\u00a0local`;
  }

  // -- the rest of the page

  function prepare() {
    for (const box of document.querySelectorAll("input[data-all]")) {
      box.hidden = false;
      box.onchange = () => {
        for (const each of document.querySelectorAll(`input[name="${box.dataset.all}"]`)) each.checked = box.checked;
      };
    }
  }

  // A field of one line would lose the line breaks of what is pasted.
  document.addEventListener("paste", (event) => {
    const field = event.target;
    const text = event.clipboardData.getData("text").trim();
    if (!text.includes("\n") || !field.matches(".fields input[type=text]:not(#key)")) return;
    event.preventDefault();
    const area = document.createElement("textarea");
    for (const { name, value } of field.attributes) if (!["type", "value"].includes(name)) area.setAttribute(name, value);
    area.value = field.value;
    area.setRangeText(text, field.selectionStart, field.selectionEnd, "end");
    field.replaceWith(area);
    area.focus();
  });

  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Resume" : "Pause";
    if (paused) {
      disconnect();
      report("Paused", "paused");
    } else {
      report("");
      connect();
    }
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", (event) => event.persisted && connect());
  prepare();
  if (fragments().length) connect();
  else button.hidden = true;
})();
