"""The script of the labelling page: one classic script, which asks no server for anything."""

from __future__ import annotations

__all__ = ["SCRIPT"]

SCRIPT = r"""
"use strict";
// -- what is said: pure functions, which tests run without a browser
const KEYS = {1:1,2:2,3:3,4:4,5:5,6:6,7:7,8:8,9:9,0:10,a:11,b:12,c:13,d:14,e:15,f:16,g:17};
function codeOf(key) {
  const k = String(key).toLowerCase();
  return Object.hasOwn(KEYS, k) ? KEYS[k] : null;
}
function answered(answers, id, lcz) {
  const old = answers[id];
  return {...answers, [id]: {lcz, sure: old ? old.sure : true}};
}
function doubted(answers, id) {
  const old = answers[id];
  return old ? {...answers, [id]: {lcz: old.lcz, sure: !old.sure}} : answers;
}
function cleared(answers, id) {
  const rest = {...answers};
  delete rest[id];
  return rest;
}
function nextOpen(sites, answers, from) {
  for (let k = 1; k <= sites.length; k++) {
    const n = (from + k) % sites.length;
    if (!Object.hasOwn(answers, sites[n].id)) return n;
  }
  return from;
}
function silent(state, key, sites) {
  if (key === "Enter" && sites[state.at].lcz === null)
    return "no proposal here: press the key of a class";
  if (key.toLowerCase() === "u" && !Object.hasOwn(state.answers, sites[state.at].id))
    return "no answer here that could be marked as not sure";
  if (key.toLowerCase() === "n" && sites.every(site => Object.hasOwn(state.answers, site.id)))
    return "every site has an answer: press S to save";
  return "";
}
function pressed(state, key, sites) {
  const site = sites[state.at], last = sites.length - 1;
  const k = key.length === 1 ? key.toLowerCase() : key;
  const take = lcz => {
    const answers = answered(state.answers, site.id, lcz);
    return {answers, at: nextOpen(sites, answers, state.at)};
  };
  if (codeOf(k) !== null) return take(codeOf(k));
  if (k === "Enter") return site.lcz === null ? state : take(site.lcz);
  if (k === "u") return {...state, answers: doubted(state.answers, site.id)};
  if (k === "x" || k === "Backspace") return {...state, answers: cleared(state.answers, site.id)};
  if (k === "j" || k === "ArrowDown") return {...state, at: Math.min(state.at + 1, last)};
  if (k === "k" || k === "ArrowUp") return {...state, at: Math.max(state.at - 1, 0)};
  if (k === "n") return {...state, at: nextOpen(sites, state.answers, state.at)};
  return null;
}
function collection(data, answers, who, when) {
  const said = data.sites.filter(site => Object.hasOwn(answers, site.id));
  return {
    type: "FeatureCollection",
    natmap: {page: data.page, city: data.city, ids: data.sites.map(site => site.id)},
    features: said.map(site => ({
      type: "Feature",
      properties: {
        id: site.id, lcz: answers[site.id].lcz, sure: answers[site.id].sure, interpreter: who,
        city: data.city, page: data.page, proposed: site.lcz, answered: when,
      },
      geometry: site.geometry,
    })),
  };
}
function kept(text, sites) {
  const found = {};
  let old = null;
  try { old = JSON.parse(text); } catch { return found; }
  for (const site of sites) {
    const one = old && Object.hasOwn(old, site.id) ? old[site.id] : null;
    if (one && Number.isInteger(one.lcz) && one.lcz >= 1 && one.lcz <= 17)
      found[site.id] = {lcz: one.lcz, sure: one.sure !== false};
  }
  return found;
}
function taken(owner, answers, stored) {
  return owner === "" ? {...stored, ...answers} : stored;  // given before a name was
}
function fileName(data, who) {
  return `${data.city}-${who}`.replace(/[^\p{L}\p{N}._-]+/gu, "_") + ".geojson";
}
// -- what is shown
function start(document, window) {
  const data = JSON.parse(document.getElementById("sites").textContent);
  const cards = [...document.querySelectorAll(".site")];
  const name = document.getElementById("who"), told = document.getElementById("told");
  const done = document.getElementById("done");
  let state = {at: 0, answers: {}}, owner = "", before = [];
  let saved = null;  // name of the file that holds all answers
  const shelf = () => `natmap-label-${data.page}-${name.value.trim()}`;
  const keep = () => {
    try { window.localStorage.setItem(shelf(), JSON.stringify(state.answers)); } catch {}
  };
  const recall = () => {
    let text = null;
    try { text = window.localStorage.getItem(shelf()); } catch {}
    const answers = taken(owner, state.answers, kept(text, data.sites));
    owner = name.value.trim();
    state = {answers, at: nextOpen(data.sites, answers, data.sites.length - 1)};
    saved = null;
    before = [];
    keep();
    show();
  };
  function show(note = "") {
    cards.forEach((card, n) => {
      const said = state.answers[data.sites[n].id];
      card.classList.toggle("here", n === state.at);
      card.classList.toggle("done", said !== undefined);
      card.querySelector(".said").textContent =
        said ? `${data.labels[said.lcz - 1]}${said.sure ? "" : " (not sure)"}` : "no answer yet";
      for (const button of card.querySelectorAll("button"))
        button.setAttribute("aria-pressed", String(said ? said.lcz === +button.value : false));
    });
    const count = Object.keys(state.answers).length;
    const where = saved ? `, saved to ${saved}` : count ? ", not saved" : "";
    told.textContent = note || `${count} of ${cards.length} answered${where}`;
    done.value = count;
  }
  function move(next) {
    const moved = next.at !== state.at;
    if (next.answers !== state.answers) {
      before.push({answers: state.answers, at: state.at});
      saved = null;
    }
    state = next;
    keep();
    show();
    if (moved) cards[state.at].scrollIntoView({block: "start"});
    cards[state.at].focus({preventScroll: true});
  }
  function undo() {
    if (!before.length) { show("nothing to undo"); return; }
    move(before.pop());
    before.pop();  // what was undone is not to be undone
  }
  function save() {
    const who = name.value.trim();
    if (!who) { name.focus(); show("type your name, press Enter, then S"); return; }
    if (!Object.keys(state.answers).length) { show("there is no answer to save"); return; }
    const text = JSON.stringify(
      collection(data, state.answers, who, new Date().toISOString()), null, 1);
    const link = document.createElement("a");
    link.href = window.URL.createObjectURL(
      new window.Blob([text + "\n"], {type: "application/geo+json"}));
    link.download = fileName(data, who);
    document.body.append(link);
    link.click();
    link.remove();
    window.setTimeout(() => window.URL.revokeObjectURL(link.href), 60000);
    saved = link.download;
    show();
  }
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target === name) {
      if (event.key !== "Enter") return;
      event.preventDefault();
      name.blur();  // it recalls what this name has answered
      cards[state.at].scrollIntoView({block: "start"});
      cards[state.at].focus({preventScroll: true});
      return;
    }
    const link = event.target.closest && event.target.closest("a, button, summary");
    if (link && (event.key === "Enter" || event.key === " ")) return;
    const key = event.key.toLowerCase();
    // a key that is held down too long must not answer the sites that follow
    if (event.repeat && !["j", "k", "arrowdown", "arrowup"].includes(key)) {
      if (pressed(state, event.key, data.sites) !== null) event.preventDefault();
      return;
    }
    const own = {s: save, z: undo}[key];
    if (own) { event.preventDefault(); own(); return; }
    const next = pressed(state, event.key, data.sites);
    if (next === null) return;
    event.preventDefault();
    if (next === state || next.answers === state.answers && next.at === state.at)
      show(silent(state, event.key, data.sites));
    else move(next);
  });
  cards.forEach((card, n) => {
    card.addEventListener("focusin", () => {
      if (n === state.at) return;
      state = {...state, at: n};
      show();
    });
    card.addEventListener("click", event => {
      const value = event.target.closest("button") && event.target.closest("button").value;
      if (value) move({at: n, answers: answered(state.answers, data.sites[n].id, +value)});
    });
  });
  document.getElementById("save").addEventListener("click", save);
  name.addEventListener("change", recall);
  window.addEventListener("beforeunload", event => {
    if (!saved && Object.keys(state.answers).length) event.preventDefault();
  });
  recall();
}
if (typeof document !== "undefined") start(document, window);
"""
