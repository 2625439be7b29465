'use strict';
const $ = id => document.getElementById(id);
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const COLOUR = { network: '#e8590c', pause: '#7048e8', disk: '#8d5524', clock: '#0b8793' };
const OUTCOME = { ok: css('--ok'), error: css('--error'), unknown: css('--unknown') };
const READ = '#8fcfab';
const many = (n, one, more) => n + ' ' + (n === 1 ? one : more || one + 's');
const broken = run.violations.length > 0;
// What is marked: the first that names operations.
const marked = run.violations.find(v => v.ops.length) || run.violations[0];
const shown = new Set(broken ? marked.ops : []);

// ---- words
document.title = run.named + (broken ? ': broken' : ': nothing broken');
const checkers = run.clients.filter(n => n > 100), clients = run.clients.length - checkers.length;
$('title').innerHTML = 'Quorate in simulation, ' + run.named.replaceAll('_', ' ') + ': ' +
  (broken ? '<span class="bad">' + run.violations[0].invariant + ' is broken</span>' : '<span class="fine">nothing broken</span>');
$('first').textContent = `This is one run of a replicated store: ${many(run.machines.length, 'machine')} hold the same data, ` +
  `one of them leads at a time, and ${many(clients, 'client')} read and write through any of them, ` +
  `for ${run.end.toFixed(1)} seconds of simulated time, which goes from left to right.` +
  (run.fault ? ` The store has a deliberate fault in this run: ${run.fault}.` : '');
$('second').textContent = `${run.scripted ? 'A script does harm' : 'Faults strike'} until the dashed green line, then all is repaired, and at the end the answers that ` +
  `the clients got and the machines' data are judged: ` + (broken
  ? 'here something that must always hold did not; it is told in the red box, and marked in red where it showed.'
  : `of ${run.figures.done + run.figures.failed + run.figures.unknown} operations none got an answer that it should not have got, ` +
    'and all machines hold the same in the end.');
for (const [at, v] of run.violations.slice(0, 4).entries()) {
  const box = document.createElement('details');
  box.className = 'bad-box';
  box.open = at === 0;
  const head = document.createElement('summary');
  head.innerHTML = '<b>' + (at ? 'Also b' : 'B') + 'roken: ' + v.invariant + '.</b> ' + v.meaning;
  const pre = document.createElement('pre');
  pre.textContent = v.text;
  box.append(head, pre);
  $('broken').append(box);
}
const swatch = (style, text) => `<span><i style="${style}"></i>${text}</span>`;
const hatch = c => `repeating-linear-gradient(-45deg, ${c} 0 3px, transparent 3px 6px)`;
$('legend').innerHTML = [
  swatch('background:' + css('--up'), 'process runs'),
  swatch('background:#eef0f5;border:1px dashed #aab', 'starting, does not serve yet'),
  swatch('background:' + css('--lead'), 'leads (with its term)'),
  '<span><b style="color:' + css('--bad') + '">✕</b> killed or power cut &nbsp; <b>■</b> ended by itself or on request</span>',
  swatch(`background:${hatch(COLOUR.network)}`, 'network cut or bad'),
  swatch(`background:${hatch(COLOUR.pause)}`, 'stands still'),
  swatch(`background:${hatch(COLOUR.disk)}`, 'disk slow or full'),
  swatch(`background:${hatch(COLOUR.clock)}`, 'clock is wrong'),
  swatch('background:' + READ, 'read, answered'),
  swatch('background:' + OUTCOME.ok, 'write, answered'),
  swatch('background:' + OUTCOME.error, 'refused: certainly not done'),
  swatch('background:linear-gradient(90deg,' + OUTCOME.unknown + ' 50%,transparent)', 'no one knows: may still happen'),
  broken ? swatch('border:2px solid ' + css('--bad') + ';height:8px', 'shows what is broken') : '',
  checkers.length ? '<span>final check: one more client for each machine, when all is repaired</span>' : '',
].join('');
$('replay').textContent = 'The same run again, as text: ' + run.replay;

// ---- lanes
const LEFT = 112, TOP = 26;
const lanes = [{ id: 'run', name: 'network', h: 26 }];
for (const n of run.machines) lanes.push({ id: 'm' + n, name: 'machine ' + n, h: 40, machine: n });
for (const n of run.clients)
  lanes.push({ id: 'c' + n, name: n > 100 ? 'final check ' + (n - 100) : 'client ' + n, h: 17, client: n });
let y = TOP;
for (const lane of lanes) { lane.y = y; y += lane.h + (lane.client ? 1 : 4); }
const HEIGHT = y + 6;
const byId = Object.fromEntries(lanes.map(lane => [lane.id, lane]));

// ---- from marks to bars
const bars = [], signs = [];
const end = run.end, clip = to => Math.min(to, end);
for (const lane of lanes.filter(lane => lane.machine)) {
  let up = null, serves = null, leads = null, open = {};
  const stopLeading = at => { if (leads) bars.push({ lane, kind: 'leads', from: leads[0], to: at, text: 'leads, term ' + leads[1] }); leads = null; };
  const closeHarm = (harm, at) => { if (open[harm]) open[harm].to = Math.min(open[harm].to, at); delete open[harm]; };
  const stop = at => {
    if (up !== null) bars.push({ lane, kind: 'starting', from: up, to: serves === null ? at : serves, text: 'starting' });
    if (serves !== null) bars.push({ lane, kind: 'up', from: serves, to: at, text: 'runs' });
    up = serves = null;
    stopLeading(at);
    closeHarm('pause', at);
  };
  for (const [at, id, what, a, b, c] of run.marks) {
    if (id !== lane.id) continue;
    if (what === 'starts') { stop(at); up = at; }
    if (what === 'serves') serves = at;
    if (what === 'leads') { stopLeading(at); leads = [at, a]; }
    if (what === 'leads no more') stopLeading(at);
    if (what === 'killed' || what === 'ended') { stop(at); signs.push({ lane, at, what }); }
    if (what === 'over') closeHarm(a, at);
    if (what === 'harm') {
      closeHarm(a, at);
      const bar = { lane, kind: 'harm', harm: a, from: at, to: clip(at + b), text: c };
      if (a !== 'clock' && run.healed !== null) bar.to = Math.min(bar.to, Math.max(run.healed, at));
      if (!(a === 'clock' && c === 'clock +0.000 s')) { bars.push(bar); open[a] = bar; }
    }
  }
  stop(end);
}
const over = at => (run.marks.find(([then, id, what]) => id === 'run' && what === 'over' && then > at) || [end])[0];
for (const [at, id, what, a, b, c] of run.marks)
  if (id === 'run' && what === 'harm')
    bars.push({ lane: byId.run, kind: 'harm', harm: a, from: at, to: Math.min(clip(at + b), over(at), Math.max(run.healed ?? end, at)), text: c });
const ops = run.ops.map(([client, machine, from, to, kind, outcome, text], index) =>
  ({ lane: byId['c' + client], machine, from, to: clip(to), kind, outcome, text: text.replace(/x{12,}/g, 'x…x'), index, bad: shown.has(index) }));
const where = v => v.ops.length ? Math.max(...v.ops.map(i => ops[i].to)) : v.at;

// ---- drawing
const canvas = $('canvas'), pen = canvas.getContext('2d');
let from = 0, to = end, width = 0;
const x = t => LEFT + (t - from) / (to - from) * (width - LEFT - 8);
const time = px => from + (px - LEFT) / (width - LEFT - 8) * (to - from);
function hatched(colour) {
  const tile = document.createElement('canvas');
  tile.width = tile.height = 6;
  const p = tile.getContext('2d');
  p.fillStyle = colour + '26'; p.fillRect(0, 0, 6, 6);
  p.strokeStyle = colour; p.lineWidth = 1.1; p.beginPath();
  for (const d of [-6, 0, 6]) { p.moveTo(d, 6); p.lineTo(d + 6, 0); }
  p.stroke();
  return pen.createPattern(tile, 'repeat');
}
const PATTERN = Object.fromEntries(Object.entries(COLOUR).map(([name, colour]) => [name, hatched(colour)]));
function label(text, a, b, y, colour, plate) {
  a = Math.max(a, LEFT);
  const wide = pen.measureText(text).width;
  if (b - a < wide + 8) return;
  if (plate) { pen.fillStyle = plate; pen.fillRect(a + 2, y - 10, wide + 4, 13); }
  pen.fillStyle = colour;
  pen.fillText(text, a + 4, y);
}
function drawBar(bar) {
  const a = x(bar.from), b = Math.max(x(bar.to), a + 1), { y, h } = bar.lane;
  if (b < LEFT || a > width) return;
  if (bar.kind === 'up') { pen.fillStyle = css('--up'); pen.fillRect(a, y, b - a, h); }
  if (bar.kind === 'starting') {
    pen.fillStyle = '#eef0f5'; pen.fillRect(a, y, b - a, h);
    pen.strokeStyle = '#aab'; pen.setLineDash([3, 3]); pen.strokeRect(a + .5, y + .5, b - a - 1, h - 1); pen.setLineDash([]);
    label('starting', a, b, y + 16, '#889');
  }
  if (bar.kind === 'leads') {
    pen.fillStyle = css('--lead'); pen.fillRect(a, y + h - 15, b - a, 15);
    label(bar.text, a, b, y + h - 4, '#4a3b00');
  }
  if (bar.kind === 'harm') {
    const tall = bar.lane.machine ? 22 : h;
    pen.save(); pen.beginPath(); pen.rect(a, y + 2, b - a, tall - 4); pen.clip();
    pen.fillStyle = PATTERN[bar.harm]; pen.fillRect(a, y + 2, b - a, tall - 4); pen.restore();
    pen.strokeStyle = COLOUR[bar.harm]; pen.strokeRect(a + .5, y + 2.5, b - a - 1, tall - 5);
    label(bar.text, a, b, y + 16, COLOUR[bar.harm], '#ffffffd8');
  }
}
function drawOp(op) {
  const a = x(op.from), b = Math.max(x(op.to), a + 1.5), { y, h } = op.lane;
  if (b < LEFT || a > width) return;
  let colour = op.outcome === 'ok' && op.kind === 'read' ? READ : OUTCOME[op.outcome];
  if (op.outcome === 'unknown') {
    const tail = Math.max(26, (b - a) * .5), fade = pen.createLinearGradient(a, 0, b + tail, 0);
    fade.addColorStop(0, colour); fade.addColorStop((b - a) / (b - a + tail), colour); fade.addColorStop(1, colour + '00');
    pen.fillStyle = fade; pen.fillRect(a, y + 3, b - a + tail, h - 6);
  } else {
    pen.fillStyle = colour; pen.fillRect(a, y + 3, b - a, h - 6);
    if (b - a > 3) { pen.fillStyle = '#ffffff90'; pen.fillRect(b - 1, y + 3, 1, h - 6); }
  }
  if (b - a > 60 && to - from < 4) {
    pen.save(); pen.beginPath(); pen.rect(a, y, b - a, h); pen.clip();
    pen.fillStyle = op.kind === 'read' && op.outcome === 'ok' ? '#123' : '#fff';
    pen.fillText(op.text, Math.max(a, LEFT) + 3, y + h - 5); pen.restore();
  }
}
function draw() {
  const scale = window.devicePixelRatio || 1;
  width = canvas.clientWidth;
  canvas.width = width * scale; canvas.height = HEIGHT * scale; canvas.style.height = HEIGHT + 'px';
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.font = '11px system-ui, "DejaVu Sans", sans-serif'; pen.lineWidth = 1;
  pen.fillStyle = '#fff'; pen.fillRect(0, 0, width, HEIGHT);
  for (const lane of lanes) { pen.fillStyle = lane.client ? '#f8f9fb' : '#f3f4f8'; pen.fillRect(LEFT, lane.y, width - LEFT, lane.h); }
  const raw = (to - from) / 9, step = [.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5].find(s => s >= raw) || 10;
  pen.strokeStyle = '#e3e5ea'; pen.fillStyle = css('--dim');
  for (let t = Math.ceil(from / step) * step; t <= to; t += step) {
    pen.beginPath(); pen.moveTo(x(t), TOP - 6); pen.lineTo(x(t), HEIGHT); pen.stroke();
    pen.fillText(t.toFixed(step < .01 ? 3 : step < .1 ? 2 : step < 1 ? 1 : 0) + ' s', x(t) + 3, 14);
  }
  pen.save(); pen.beginPath(); pen.rect(LEFT, 0, width - LEFT, HEIGHT); pen.clip();
  for (const kind of ['up', 'starting', 'leads', 'harm']) bars.filter(bar => bar.kind === kind).forEach(drawBar);
  const order = { unknown: 0, ok: 1, error: 2 };
  for (const level of [0, 1, 2]) ops.filter(op => order[op.outcome] === level).forEach(drawOp);
  for (const op of ops.filter(op => op.bad)) {
    pen.strokeStyle = css('--bad'); pen.lineWidth = 2.5;
    pen.strokeRect(x(op.from) - 2, op.lane.y + 1, Math.max(x(op.to) - x(op.from), 3) + 4, op.lane.h - 2); pen.lineWidth = 1;
  }
  pen.font = 'bold 15px system-ui, "DejaVu Sans", sans-serif';
  for (const { lane, at, what } of signs) {
    pen.fillStyle = what === 'killed' ? css('--bad') : '#445';
    pen.fillText(what === 'killed' ? '✕' : '■', x(at) - 6, lane.y + 26);
  }
  pen.font = '11px system-ui, "DejaVu Sans", sans-serif';
  if (run.healed !== null) line(run.healed, '#2f9e62', [5, 4], 'faults are over');
  if (broken) line(where(marked), css('--bad'), [], 'broken: ' + marked.invariant);
  pen.restore();
  pen.fillStyle = '#fff'; pen.fillRect(0, 0, LEFT - 1, HEIGHT);
  pen.textAlign = 'right';
  for (const lane of lanes) {
    pen.fillStyle = css('--ink'); pen.font = (lane.client ? '11px' : '600 12px') + ' system-ui, "DejaVu Sans", sans-serif';
    pen.fillText(lane.name, LEFT - 10, lane.y + lane.h / 2 + 4);
  }
  pen.textAlign = 'left';
  tellStory();
}
function line(at, colour, dash, text) {
  const px = x(at);
  pen.strokeStyle = colour; pen.lineWidth = 1.6; pen.setLineDash(dash);
  pen.beginPath(); pen.moveTo(px, TOP - 8); pen.lineTo(px, HEIGHT); pen.stroke();
  pen.setLineDash([]); pen.lineWidth = 1;
  const wide = pen.measureText(text).width, left = px + wide + 10 > width ? px - wide - 8 : px;
  pen.fillStyle = colour; pen.fillRect(left, 2, wide + 8, 16);
  pen.fillStyle = '#fff'; pen.fillText(text, left + 4, 14);
}

// ---- the story of what is in view
const NAME = id => byId[id] ? (id === 'run' ? 'run' : byId[id].name) : id === 'run' ? 'run' : id.replace('m', 'machine ').replace('c', 'client ');
function tellStory() {
  const near = to - from < 2.2;
  const lines = run.events.filter(([at]) => at >= from && at <= to).map(([at, id, text]) => ({ at, id, text }));
  if (near) for (const op of ops) if (op.to >= from && op.to <= to) lines.push({ at: op.to, id: op.lane.id, text: op.text, op: true, bad: op.bad });
  lines.sort((a, b) => a.at - b.at);
  const digits = to - from < .05 ? 4 : 2;
  $('heading').textContent = `What happened between ${from.toFixed(digits)} s and ${to.toFixed(digits)} s` + (near ? '' : ' (operations are told when you look closer)');
  const box = $('story');
  box.textContent = '';
  for (const { at, id, text, op, bad } of lines.slice(0, 600)) {
    const row = document.createElement('div');
    row.className = bad ? 'broken' : op ? 'op' : '';
    row.textContent = (at.toFixed(4) + ' s').padStart(11) + '  ' + NAME(id).padEnd(12) + ' ' + text;
    box.append(row);
  }
}

// ---- looking closer
function show(a, b) {
  const least = .002, most = end * 1.01;
  const span = Math.min(Math.max(b - a, least), most);
  from = Math.max(-end * .005, Math.min(a, most - span)); to = from + span;
  requestAnimationFrame(draw);
}
const zoom = (factor, at) => show(at - (at - from) * factor, at + (to - at) * factor);
canvas.addEventListener('wheel', event => {
  event.preventDefault();
  zoom(event.deltaY > 0 ? 1.25 : .8, time(event.offsetX));
}, { passive: false });
let grabbed = null;
canvas.addEventListener('pointerdown', event => { grabbed = { px: event.offsetX, from, to }; canvas.setPointerCapture(event.pointerId); });
for (const ends of ['pointerup', 'pointercancel']) canvas.addEventListener(ends, () => grabbed = null);
canvas.addEventListener('pointermove', event => {
  if (grabbed) {
    const by = (event.offsetX - grabbed.px) / (width - LEFT - 8) * (grabbed.to - grabbed.from);
    return show(grabbed.from - by, grabbed.to - by);
  }
  tip(event);
});
canvas.addEventListener('pointerleave', () => $('tip').style.display = 'none');
function tip(event) {
  const { offsetX: px, offsetY: py } = event;
  const lane = lanes.find(lane => py >= lane.y && py < lane.y + lane.h);
  const box = $('tip');
  let found = [];
  if (lane && px > LEFT) {
    const hit = bar => bar.lane === lane && x(bar.from) - 2 <= px && Math.max(x(bar.to), x(bar.from) + 2) + 2 >= px;
    found = lane.client
      ? ops.filter(hit).sort((a, b) => (a.to - a.from) - (b.to - b.from)).slice(0, 3).map(op =>
        `${op.text}\n${op.from.toFixed(4)} s to ${op.to.toFixed(4)} s, asked of machine ${op.machine}` + (op.bad ? '\nshows the violation' : ''))
      : bars.filter(hit).map(bar => `${bar.text}: ${bar.from.toFixed(3)} s to ${bar.to.toFixed(3)} s`);
    for (const sign of signs) if (sign.lane === lane && Math.abs(x(sign.at) - px) < 7) found.push(`${sign.what} at ${sign.at.toFixed(4)} s`);
  }
  box.style.display = found.length ? 'block' : 'none';
  box.textContent = found.join('\n');
  // All of it stays in sight, at the edges too.
  const within = (wanted, size, room) => Math.max(4, Math.min(wanted, room - size - 8)) + 'px';
  box.style.left = within(event.clientX + 14, box.offsetWidth, window.innerWidth);
  box.style.top = within(event.clientY + 16, box.offsetHeight, window.innerHeight);
}
function button(text, act) {
  const made = document.createElement('button');
  made.textContent = text; made.onclick = act; $('bar').append(made);
}
const closer = () => { const at = where(marked); show(at - .4, at + .25); };
button('whole run', () => show(-end * .005, end * 1.005));
button('closer', () => zoom(.5, (from + to) / 2));
button('farther', () => zoom(2, (from + to) / 2));
if (broken) button('to the violation', closer);
$('bar').append(Object.assign(document.createElement('small'), { textContent: 'wheel: zoom · drag: move · point at anything: what it is' }));
addEventListener('resize', draw);
show(-end * .005, end * 1.005);
if (broken && location.hash === '#violation') closer();
