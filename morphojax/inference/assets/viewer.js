// Shows the images and labels of one heart with NiiVue. Data: see morphojax/inference/viewer.py.
"use strict";
const element = (id) => document.getElementById(id);
const { structures, files } = JSON.parse(element("data").textContent);
const frames = files.flatMap((file) => file.frames.map((name, t) => ({ name, file, t, row: file.rows[t] || {} })));
const state = { frame: 0, slice: 0, file: null, hidden: new Set(), playing: 0, window: 255, level: 127.5 };
let nv;

// The response that holds what base64 of gzip holds. A loop is much faster than Uint8Array.from.
function unpack(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
}

// Voxels X, Y, Z, T as a NiiVue volume. The affine makes X point right and Y down, as the voxels are stored.
async function toVolume(file, kind) {
  const voxels = new Uint8Array(await unpack(file[kind]).arrayBuffer());
  const [x, y, z] = file.spacing;
  const affine = [-x, 0, 0, 0, 0, -y, 0, 0, 0, 0, z, 0, 0, 0, 0, 1];
  const nifti = niivue.NVImage.createNiftiArray(file.shape, [...file.spacing, 1], affine, 2, voxels);
  return niivue.NVImage.new(nifti.buffer, `${kind}.nii`, "gray", 1, null, 0, 255, true);
}

function showFile(file) {
  if (file === state.file) return;
  [...nv.volumes].reverse().forEach((volume) => nv.removeVolume(volume));
  file.volumes.forEach((volume) => nv.addVolume(volume));
  state.file = file;
}

function colourLabels() {
  const at = (value) => [0, ...structures.map(value)];
  const [R, G, B] = [0, 1, 2].map((channel) => at((s) => s.colour[channel]));
  const A = at((s) => (state.hidden.has(s.number) ? 0 : 255));
  nv.volumes[1].setColormapLabel({ R, G, B, A, I: at((s) => s.number), labels: at((s) => s.name).map(String) });
  nv.setOpacity(1, element("opacity").value / 100);
  element("opacity-text").textContent = `${element("opacity").value} %`;
}

function showSlice(slice) {
  const count = frames[state.frame].file.shape[2];
  state.slice = Math.min(Math.max(slice, 0), count - 1);
  element("slice").max = count - 1;
  element("slice").value = state.slice;
  element("slice-text").textContent = `${state.slice + 1} of ${count}`;
  nv.scene.crosshairPos[2] = (state.slice + 0.5) / count;
  nv.drawScene();
}

function showFrame(frame) {
  state.frame = (frame + frames.length) % frames.length;
  const { name, file, t } = frames[state.frame];
  showFile(file);
  nv.volumes.forEach((volume) => { volume.frame4D = t; });
  element("frame").value = state.frame;
  element("frame-text").textContent = `${name} (${state.frame + 1} of ${frames.length})`;
  listStructures();
  colourLabels();
  showWindow();
  showSlice(state.slice);
}

function showWindow() {
  const { low, high } = frames[state.frame].file;
  const [image] = nv.volumes;
  [image.cal_min, image.cal_max] = [state.level - state.window / 2, state.level + state.window / 2];
  nv.updateGLVolume();
  const grey = (high - low) / 255;
  element("window").value = state.window;
  element("level").value = state.level;
  element("window-text").textContent = (state.window * grey).toPrecision(4);
  element("level-text").textContent = (low + state.level * grey).toPrecision(4);
}

// Window and level after NiiVue changed them: the right mouse button, or a double click.
function readWindow() {
  const { cal_min, cal_max } = nv.volumes[0];
  [state.window, state.level] = [Math.max(cal_max - cal_min, 2), (cal_min + cal_max) / 2];
  showWindow();
}

// The mean place of all labels, or without any the middle of the grid, in mm as NiiVue sees the voxels.
function centre({ shape, spacing, volumes }) {
  const sum = [0, 0, 0, 0];
  volumes[1].img.forEach((number, i) => {
    if (!number) return;
    [i, Math.floor(i / shape[0]), Math.floor(i / shape[0] / shape[1])].forEach((place, axis) => { sum[axis] += place % shape[axis]; });
    sum[3]++;
  });
  const voxel = [0, 1, 2].map((axis) => (sum[3] ? sum[axis] / sum[3] : shape[axis] / 2));
  return [-voxel[0] * spacing[0], -voxel[1] * spacing[1], voxel[2] * spacing[2]];
}

// About the labels of the first file.
function zoom(factor) {
  const pan = nv.scene.pan2Dxyzmm;
  const bounded = Math.min(Math.max(factor, 1), 6);
  files[0].centre ||= centre(files[0]);
  files[0].centre.forEach((place, axis) => { pan[axis] += (pan[3] - bounded) * place; });
  pan[3] = bounded;
  if (bounded === 1) pan.fill(0, 0, 3);
  element("zoom").value = bounded;
  element("zoom-text").textContent = `${bounded.toFixed(1)} x`;
  nv.drawScene();
}

function addRow(table, ...cells) {
  const row = table.insertRow();
  cells.forEach((cell, i) => row.appendChild(document.createElement(i ? "td" : "th")).append(...[cell].flat()));
}

function listStructures() {
  const table = element("structures");
  const { row } = frames[state.frame];
  table.replaceChildren();
  for (const { name, number, colour, column, unit } of structures) {
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !state.hidden.has(number) });
    const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
    swatch.style.background = `rgb(${colour})`;
    box.addEventListener("change", () => toggle([number]));
    const label = document.createElement("label");
    label.append(box, swatch, name);
    addRow(table, label, `${Number(row[column]).toFixed(1)} ${unit}`);
  }
  const sizes = new Set(structures.map((structure) => structure.column));
  Object.entries(row).filter(([column]) => !sizes.has(column)).forEach((cells) => addRow(table, ...cells));
}

function toggle(numbers) {
  const hide = numbers.some((number) => !state.hidden.has(number));
  numbers.forEach((number) => (hide ? state.hidden.add(number) : state.hidden.delete(number)));
  document.querySelectorAll("#structures input").forEach((box, i) => { box.checked = !state.hidden.has(structures[i].number); });
  colourLabels();
  nv.updateGLVolume();
}

function play() {
  clearInterval(state.playing);
  state.playing = state.playing ? 0 : setInterval(() => showFrame(state.frame + 1), 1000 / 15);
  element("play").textContent = state.playing ? "Stop" : "Play";
}

function showPlanes() {
  const three = element("planes").checked;
  nv.opts.dragModePrimary = three ? niivue.DRAG_MODE.crosshair : niivue.DRAG_MODE.pan;
  nv.setCrosshairWidth(three ? 1 : 0);
  nv.setSliceType(three ? nv.sliceTypeMultiplanar : nv.sliceTypeAxial);
}

// NiiVue has keys of its own on the canvas, which would change the view behind the controls.
function keepFromNiivue(event) {
  if (event.target === nv.canvas) event.stopPropagation();
}

function onKey(event) {
  keepFromNiivue(event);
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const structure = structures[Number(event.key) - 1];
  const step = { ArrowUp: 1, ArrowDown: -1 }[event.key];
  const frame = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const link = element({ p: "previous", n: "next" }[event.key]);
  if (event.target.type === "range" && event.key.startsWith("Arrow")) return; // moves the slider
  if (step) showSlice(state.slice + step);
  else if (frame) showFrame(state.frame + frame);
  else if ("+-".includes(event.key)) zoom(nv.scene.pan2Dxyzmm[3] + (event.key === "+" ? 0.2 : -0.2));
  else if (event.key === "0") toggle(structures.map(({ number }) => number));
  else if (structure) toggle([structure.number]);
  else if (link) link.click();
  else if (event.key === " " && frames.length > 1 && event.target.tagName !== "BUTTON" && event.target.type !== "checkbox") play();
  else return;
  event.preventDefault();
}

let turned = 0; // by the wheel; a touchpad sends many small turns
function onWheel(event) {
  event.preventDefault();
  event.stopPropagation();
  turned += event.deltaY * (event.deltaMode ? 40 : 1);
  if (Math.abs(turned) < 40) return;
  showSlice(state.slice + Math.sign(turned));
  turned = 0;
}

function listen() {
  const onInput = (id, action) => element(id).addEventListener("input", action);
  onInput("slice", () => showSlice(Number(element("slice").value)));
  onInput("frame", () => showFrame(Number(element("frame").value)));
  onInput("opacity", () => { colourLabels(); nv.updateGLVolume(); });
  onInput("window", () => { state.window = Number(element("window").value); showWindow(); });
  onInput("level", () => { state.level = Number(element("level").value); showWindow(); });
  onInput("zoom", () => zoom(Number(element("zoom").value)));
  onInput("planes", showPlanes);
  onInput("smooth", () => nv.setInterpolation(!element("smooth").checked));
  element("play").addEventListener("click", play);
  document.addEventListener("keydown", onKey, true);
  document.addEventListener("keyup", keepFromNiivue, true);
  document.addEventListener("pointerup", ({ target }) => target.type === "range" && target.blur());
  const main = document.querySelector("main");
  main.addEventListener("wheel", onWheel, { capture: true, passive: false });
  for (const kind of ["mouseup", "dblclick"]) main.addEventListener(kind, () => setTimeout(readWindow));
}

async function start() {
  if (!document.createElement("canvas").getContext("webgl2") || !window.DecompressionStream) {
    throw new Error("this browser has no WebGL 2. Use a current Chrome, Edge, Firefox or Safari, with graphics acceleration on");
  }
  const script = document.createElement("script");
  script.textContent = await unpack(element("niivue").textContent).text();
  document.head.append(script);
  nv = new niivue.Niivue({
    logLevel: "error", loadingText: "", dragAndDropEnabled: false, isRadiologicalConvention: true,
    isOrientationTextVisible: false, crosshairWidth: 0, dragMode: niivue.DRAG_MODE.windowing, multiplanarShowRender: 0,
  });
  await nv.attachToCanvas(element("canvas"));
  nv.onLocationChange = () => {
    const slice = nv.frac2vox(nv.scene.crosshairPos)[2];
    if (slice !== state.slice) showSlice(slice);
  };
  element("frame").max = frames.length - 1;
  element("frames").hidden = element("play-line").hidden = frames.length < 2;
  state.slice = Math.floor(files[0].shape[2] / 2);
  for (const file of files) file.volumes = [await toVolume(file, "image"), await toVolume(file, "label")];
  showFrame(0);
  showPlanes();
  zoom(1);
  listen();
}

const started = start();
started.catch((error) => { element("message").textContent = `The images cannot be shown: ${error.message}.`; });
