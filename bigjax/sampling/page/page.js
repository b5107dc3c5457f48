// The page of bigjax view: sliders, one image in flight, and the run beside it. No library.
'use strict';

const $ = (id) => document.getElementById(id);
const SLOW = 700; // ms that an image takes where the samples at the ends are not shown, too
const LOOK = 20000; // ms between two looks at the run

let about = null; // of the generator, as about.json has it
let busy = false;
let millis = 0; // that the last image took; a generator's first does not count: its program is compiled
let compiled = false;
let urls = {}; // of the images that are shown
let playing = 0;
const dirty = new Set(); // of image, first, second

// --- What is asked for

function settings() {
  const given = new URLSearchParams();
  if (about.class_names.length > 1) {
    given.set('class', $('class').value);
    given.set('class2', $('class2').value);
  }
  given.set('seed', $('seed').value);
  given.set('seed2', $('seed2').value);
  given.set('way', $('way').value);
  if (about.truncation && !($('untruncated').checked && about.truncation.untruncated)) {
    given.set('truncation', $('truncation').value);
  }
  for (const input of $('options').querySelectorAll('input')) {
    if (input.value.trim() && input.value !== input.defaultValue) {
      given.set('option.' + input.name, input.value.trim());
    }
  }
  if (about.is_workdir && about.step !== null) given.set('step', about.step);
  return given;
}

function endOf(which) { // the settings of a sample at an end
  const given = settings();
  if (which === 'second') {
    for (const name of ['class', 'seed']) {
      if (given.has(name + '2')) given.set(name, given.get(name + '2'));
    }
  }
  for (const name of ['class2', 'seed2']) given.delete(name);
  given.set('way', '0');
  return given;
}

const ask = {
  image: settings,
  first: () => endOf('first'),
  second: () => endOf('second'),
};

// --- Images: one in flight, then the newest that is wanted; those between are never asked for

function want(...which) {
  which.forEach((one) => dirty.add(one));
  history.replaceState(null, '', '#' + settings());
  pump();
}

async function pump() {
  if (busy) return;
  busy = true;
  const late = setTimeout(() => say('Working …'), 400);
  try {
    while (dirty.size) {
      const which = ['image', 'first', 'second'].find((one) => dirty.has(one));
      dirty.delete(which);
      if (which !== 'image' && millis > SLOW) $(which).removeAttribute('src');
      else await show(which);
    }
  } catch (error) {
    say(error instanceof TypeError ? 'The program has ended: start bigjax view again.' : error.message, true);
    stop();
  } finally {
    clearTimeout(late);
    busy = false;
  }
}

async function show(which) {
  if (!$('seed').checkValidity() || !$('seed2').checkValidity()) {
    throw new Error(`A seed is a whole number, 0 to ${about.most_seed}.`);
  }
  const began = performance.now();
  const response = await fetch('image?' + ask[which]());
  if (!response.ok) throw new Error(await response.text());
  const url = URL.createObjectURL(await response.blob());
  const image = $(which);
  image.src = url;
  await image.decode().catch(() => {});
  if (urls[which]) URL.revokeObjectURL(urls[which]);
  urls[which] = url;
  if (which !== 'image') return;
  const took = performance.now() - began;
  millis = compiled ? took : 0;
  compiled = true;
  image.classList.add('ready');
  fit();
  const told = JSON.parse(decodeURIComponent(response.headers.get('Bigjax-About')));
  $('save').href = url;
  $('save').download = told.name;
  $('command').textContent = told.command;
  $('copy').hidden = !told.command;
  $('command-words').textContent = told.command
    ? 'The same image in a shell:'
    : 'No command makes this very image; those of samples, at the ends of the way, have one.';
  image.alt = 'Generated image: ' + told.name.replace(/[_]/g, ', ');
  say([`${about.width} × ${about.height} px`, duration(took), told.note].filter(Boolean).join(' · '));
}

function duration(took) {
  return took < 1000 ? `${took.toFixed(0)} ms` : `${(took / 1000).toFixed(1)} s`;
}

function fit() { // whole factors, so that every pixel is as large as the others
  const frame = $('frame'), image = $('image');
  const room = Math.min(frame.clientWidth / about.width, frame.clientHeight / about.height);
  const factor = room >= 1 ? Math.floor(room) : room;
  image.classList.toggle('smooth', room < 1);
  image.style.width = about.width * factor + 'px';
  image.style.height = about.height * factor + 'px';
}

function say(words, wrong = false) {
  $('status').textContent = words;
  $('status').classList.toggle('error', wrong);
}

// --- Sliders

function pair(name) { // a slider and a field of the same number
  const slider = $(name + '-slider'), field = $(name), second = name.endsWith('2');
  const changed = () => want('image', second ? 'second' : 'first');
  slider.addEventListener('input', () => { field.value = slider.value; changed(); });
  field.addEventListener('input', () => { slider.value = field.value; changed(); });
}

function follow() { // what is written beside sliders
  $('way-value').textContent = Number($('way').value).toFixed(2);
  if (!about || !about.truncation) return;
  const whole = about.truncation.untruncated && $('untruncated').checked;
  $('truncation').disabled = whole || about.truncation.least === about.truncation.most;
  $('truncation-value').textContent = whole ? 'none' : Number($('truncation').value).toFixed(2);
}

function build() { // the controls that this generator has
  const names = about.class_names, many = names.length > 1;
  document.title = `${about.title} – bigjax`;
  $('title').textContent = about.title;
  const size = `${about.width} × ${about.height} px`;
  $('subtitle').textContent = [
    about.algorithm,
    about.frames ? `clips of ${about.frames} frames, ${size}` : size,
    many ? `${names.length.toLocaleString('en')} classes` : '',
    about.step === null ? '' : `step ${about.step.toLocaleString('en')}`,
  ].filter(Boolean).join(' · ');
  for (const row of document.querySelectorAll('[data-classes]')) row.hidden = !many;
  for (const name of ['class', 'class2']) {
    const select = $(name), before = select.value;
    select.replaceChildren(...names.map((word, i) => new Option(word, i)));
    select.value = before && before < names.length ? before : name === 'class2' && many ? 1 : 0;
    $(name + '-slider').max = names.length - 1;
    $(name + '-slider').value = select.value;
  }
  $('seed').max = $('seed2').max = about.most_seed;
  const range = about.truncation;
  $('truncations').hidden = !range;
  $('measuring').hidden = !about.measurable;
  if (range) {
    $('truncation').min = range.least;
    $('truncation').max = range.most;
    $('truncation').value = range.value === null ? Math.min(1, range.most) : range.value;
    $('untruncated').checked = range.value === null;
    $('untruncated-label').hidden = !range.untruncated;
  }
  const options = about.options.map(({name, help, value}) => {
    const input = Object.assign(document.createElement('input'), {type: 'text', name, defaultValue: value});
    input.addEventListener('change', () => want('image', 'first', 'second'));
    const label = Object.assign(document.createElement('label'), {className: 'option'});
    const line = document.createElement('span'), small = document.createElement('small');
    line.append(name, input);
    small.textContent = help;
    label.append(line, small);
    return label;
  });
  $('options').hidden = !options.length;
  $('options').replaceChildren($('options').firstElementChild, ...options);
  follow();
}

function recall(hash = location.hash) { // settings that the address has
  const given = new URLSearchParams(hash.slice(1));
  for (const [name, word] of given) {
    if (['class', 'class2', 'seed', 'seed2', 'way'].includes(name)) {
      $(name).value = word;
      if ($(name + '-slider')) $(name + '-slider').value = word;
    } else if (name === 'truncation' && about.truncation) {
      $('truncation').value = word;
      $('untruncated').checked = false;
    } else if (name.startsWith('option.')) {
      const input = [...$('options').querySelectorAll('input')].find((one) => 'option.' + one.name === name);
      if (input) input.value = word;
    }
  }
  for (const name of ['class', 'class2']) if (!$(name).value) $(name).value = 0;
  follow();
}

async function open(step, measure) { // a generator: that of a checkpoint
  say(measure ? 'Measuring …' : 'Opening the generator …');
  const given = new URLSearchParams(step === undefined || step === null ? {} : {step});
  if (measure) given.set('measure', 1);
  const response = await fetch('about.json?' + given);
  if (!response.ok) throw new Error(await response.text());
  about = await response.json();
  compiled = false;
  build();
}

function stop() {
  cancelAnimationFrame(playing);
  playing = 0;
  $('play').setAttribute('aria-pressed', 'false');
  $('play').textContent = 'Play';
}

function play() { // there and back, as fast as images come
  let last = null, direction = 1;
  const frame = (now) => {
    if (!playing) return;
    if (last !== null && !busy) {
      let way = Number($('way').value) + direction * Math.min((now - last) / 4000, 0.1);
      if (way >= 1 || way <= 0) direction = way >= 1 ? -1 : 1;
      $('way').value = Math.min(Math.max(way, 0), 1);
      last = now;
      follow();
      want('image');
    }
    last ??= now;
    playing = requestAnimationFrame(frame);
  };
  $('play').setAttribute('aria-pressed', 'true');
  $('play').textContent = 'Stop';
  playing = requestAnimationFrame(frame);
}

// --- The run

let seen = '';

async function look() {
  const response = await fetch('run.json').catch(() => null);
  if (!response || !response.ok) return;
  const text = await response.text();
  if (text === seen) return;
  seen = text;
  const run = JSON.parse(text);
  $('run').hidden = !run;
  if (!run) return;
  const box = $('checkpoint'), now = about ? String(about.step) : '';
  const steps = run.checkpoints.map(String);
  if (now && !steps.includes(now)) steps.push(now);
  box.replaceChildren(...steps.map((step) => new Option(`step ${Number(step).toLocaleString('en')}`, step)));
  box.value = now;
  $('checkpoint-label').hidden = steps.length < 2;
  $('progress-box').hidden = !run.steps;
  $('progress').max = run.steps || 1;
  $('progress').value = run.step;
  $('progress-words').textContent = `step ${run.step.toLocaleString('en')} of ${run.steps.toLocaleString('en')}`;
  grids(run.grids);
  $('tables').replaceChildren(...run.tables.map(table));
  $('events').hidden = !run.events.length;
  $('events').lastElementChild.replaceChildren(...run.events.map(([step, words]) => {
    const item = document.createElement('li');
    item.textContent = `step ${step.toLocaleString('en')}: ${words}`;
    return item;
  }));
  $('pictures').replaceChildren(...run.pictures.map(picture));
}

let shown = [];

function grids(found) {
  const slider = $('grid-slider'), newest = !shown.length || Number(slider.value) === shown.length - 1;
  shown = found;
  $('samples').hidden = !found.length;
  slider.max = Math.max(found.length - 1, 0);
  slider.hidden = found.length < 2;
  if (newest) slider.value = slider.max;
  grid();
}

function grid() {
  const one = shown[$('grid-slider').value];
  if (!one) return;
  $('grid-title').textContent = one.title;
  $('grid').alt = `Class grid of ${one.title}`;
  $('grid-link').href = one.url;
  if ($('grid').getAttribute('src') !== one.url) $('grid').src = one.url;
}

function table({title, head, rows}) {
  const panel = document.createElement('div'), box = document.createElement('div');
  const heading = document.createElement('h3');
  panel.className = 'panel';
  heading.textContent = title;
  box.className = 'scroll';
  const made = document.createElement('table');
  const line = (kind, words, part) => {
    const row = part.insertRow();
    words.forEach((word) => row.appendChild(document.createElement(kind)).textContent = word);
  };
  line('th', head, made.createTHead());
  const body = made.createTBody();
  rows.forEach((row) => line('td', row, body));
  box.append(made);
  panel.append(heading, box);
  return panel;
}

function picture({url, title}) {
  const figure = Object.assign(document.createElement('figure'), {className: 'picture panel'});
  const caption = document.createElement('figcaption');
  caption.textContent = title;
  const link = Object.assign(document.createElement('a'), {href: url, target: '_blank', rel: 'noopener'});
  link.append(Object.assign(document.createElement('img'), {src: url, alt: title, loading: 'lazy'}));
  figure.append(caption, link);
  return figure;
}

// --- Beginning

async function begin() {
  for (const name of ['class', 'class2', 'seed', 'seed2']) pair(name);
  $('controls').addEventListener('submit', (event) => event.preventDefault());
  $('way').addEventListener('input', () => { stop(); follow(); want('image'); });
  for (const name of ['truncation', 'untruncated']) {
    $(name).addEventListener('input', () => { follow(); want('image', 'first', 'second'); });
  }
  $('play').addEventListener('click', () => (playing ? stop() : play()));
  $('dice').addEventListener('click', () => {
    for (const name of ['seed', 'seed2']) {
      $(name).value = $(name + '-slider').value = Math.floor(Math.random() * 1000);
    }
    want('image', 'first', 'second');
  });
  $('swap').addEventListener('click', () => {
    for (const name of ['class', 'seed']) {
      for (const part of ['', '-slider']) {
        const one = $(name + part), other = $(name + '2' + part);
        [one.value, other.value] = [other.value, one.value];
      }
    }
    want('image', 'first', 'second');
  });
  $('copy').addEventListener('click', () => navigator.clipboard.writeText($('command').textContent)
    .then(() => say('Copied.'), () => say('The browser does not let this page copy.', true)));
  const another = async (step, measure) => {
    const before = location.hash;
    try {
      await open(step, measure);
      recall(before);
      want('image', 'first', 'second');
    } catch (error) {
      say(error.message, true);
    }
    $('checkpoint').value = about.step;
  };
  $('checkpoint').addEventListener('change', () => another($('checkpoint').value));
  $('measure').addEventListener('click', () => another(about.step, true));
  $('grid-slider').addEventListener('input', grid);
  addEventListener('resize', () => about && fit());
  try {
    const step = new URLSearchParams(location.hash.slice(1)).get('step');
    await open(step ?? undefined).catch(() => open());
    recall();
    want('image', 'first', 'second');
  } catch (error) {
    say(error instanceof TypeError ? 'The program has ended: start bigjax view again.' : error.message, true);
  }
  await look();
  setInterval(() => document.visibilityState === 'visible' && look(), LOOK);
}

begin();
