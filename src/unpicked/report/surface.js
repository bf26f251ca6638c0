// The surface of the page's maps: extraction, drawing and handling, with WebGL 2 and nothing else.
//
// Axes as in the slices across z: x to the right, y down, z away from the reader (a right-handed frame, so the hand
// on the screen is the hand of the map). A map is up-sampled by its sinc series, the surface is taken by "surface
// nets": one corner in every cell that the surface crosses, at the mean of the crossings of the cell's edges.
// The canvas tells what it shows in data-triangles and data-shown.
(function () {
  "use strict";

  var held = document.getElementById("maps");
  if (!held) { return; }
  var canvas = document.getElementById("surface");
  var gl = canvas.getContext("webgl2", { alpha: true, antialias: true, premultipliedAlpha: true });
  if (!gl) { return; } // the still pictures stay
  var DALTON = 0.826; // per cubic angstrom of protein, at 1.21 cubic angstrom per dalton

  // ------------------------------------------------------------------------------------------- values

  function decode(map) {
    var text = atob(map.codes), bytes = new Uint8Array(text.length);
    for (var i = 0; i < text.length; i++) { bytes[i] = text.charCodeAt(i); }
    var wide = map.bits / 8, view = new DataView(bytes.buffer), out = new Float32Array(bytes.length / wide);
    for (var k = 0; k < out.length; k++) {
      out[k] = map.low + map.step * (wide === 2 ? view.getUint16(2 * k, true) : bytes[k]);
    }
    return out;
  }

  // Weights of the voxels for each sample: sinc(place - voxel).
  function weights(box, fine) {
    var out = new Float32Array(fine * box);
    for (var i = 0; i < fine; i++) {
      for (var j = 0; j < box; j++) {
        var x = Math.PI * ((i + 0.5) * box / fine - 0.5 - j);
        out[i * box + j] = Math.abs(x) < 1e-6 ? 1 : Math.sin(x) / x;
      }
    }
    return out;
  }

  // Up-samples the last axis and makes it the first; three times is the whole map in its old order of axes.
  function contract(values, table, box, fine) {
    var rows = values.length / box, out = new Float32Array(fine * rows);
    for (var i = 0; i < fine; i++) {
      for (var row = 0; row < rows; row++) {
        var sum = 0;
        for (var j = 0; j < box; j++) { sum += table[i * box + j] * values[row * box + j]; }
        out[i * rows + row] = sum;
      }
    }
    return out;
  }

  function refine(map) {
    var table = weights(map.box, map.fine), values = decode(map);
    for (var axis = 0; axis < 3; axis++) { values = contract(values, table, map.box, map.fine); }
    var n = map.fine;
    for (var a = 0; a < n; a++) { // surroundings on the faces, so that the surface is closed
      for (var b = 0; b < n; b++) {
        [0, n - 1].forEach(function (c) {
          values[(c * n + a) * n + b] = values[(a * n + c) * n + b] = values[(a * n + b) * n + c] = 0;
        });
      }
    }
    return values;
  }

  // The positive samples from high to low with their running sum, to tell what a level encloses.
  function content(values) {
    var sorted = values.filter(function (v) { return v > 0; }).sort().reverse();
    var mass = new Float64Array(sorted.length + 1);
    for (var i = 0; i < sorted.length; i++) { mass[i + 1] = mass[i] + sorted[i]; }
    return { sorted: sorted, mass: mass };
  }

  function countAbove(sorted, level) {
    var low = 0, high = sorted.length;
    while (low < high) {
      var middle = (low + high) >> 1;
      if (sorted[middle] >= level) { low = middle + 1; } else { high = middle; }
    }
    return low;
  }

  // ------------------------------------------------------------------------------------------ surface

  var CORNERS = [0, 1, 2, 3, 4, 5, 6, 7].map(function (c) { return [c & 1, c >> 1 & 1, c >> 2 & 1]; });
  var EDGES = [];
  for (var one = 0; one < 8; one++) {
    for (var bit = 1; bit < 8; bit *= 2) { if (!(one & bit)) { EDGES.push([one, one | bit]); } }
  }

  // Corners of the surface (in samples, from sample 0), their normals (outward, unit) and triangles.
  function extract(values, n, level) {
    var strides = [1, n, n * n], steps = CORNERS.map(function (c) { return c[0] + n * c[1] + n * n * c[2]; });
    var cells = new Int32Array(n * n * n).fill(-1), points = [], triangles = [], corner = new Float32Array(8);

    function place(x, y, z, start) {
      var sum = [0, 0, 0], crossed = 0;
      for (var c = 0; c < 8; c++) { corner[c] = values[start + steps[c]] - level; }
      for (var e = 0; e < 12; e++) {
        var a = EDGES[e][0], b = EDGES[e][1];
        if (corner[a] >= 0 === corner[b] >= 0) { continue; }
        var part = corner[a] / (corner[a] - corner[b]);
        crossed++;
        for (var axis = 0; axis < 3; axis++) {
          sum[axis] += CORNERS[a][axis] + part * (CORNERS[b][axis] - CORNERS[a][axis]);
        }
      }
      if (crossed) {
        cells[start] = points.length / 3;
        points.push(x + sum[0] / crossed, y + sum[1] / crossed, z + sum[2] / crossed);
      }
    }

    // Every edge of the grid that the surface crosses gives a quadrangle of the four cells around it.
    function join(at, axis) {
      if (values[at] >= level === values[at + strides[axis]] >= level) { return; }
      var u = strides[(axis + 1) % 3], v = strides[(axis + 2) % 3];
      var a = cells[at - u - v], b = cells[at - v], c = cells[at], d = cells[at - u];
      triangles.push(a, b, c, a, c, d);
    }

    var x, y, z;
    for (z = 0; z < n - 1; z++) {
      for (y = 0; y < n - 1; y++) { for (x = 0; x < n - 1; x++) { place(x, y, z, x + n * y + n * n * z); } }
    }
    for (z = 1; z < n - 1; z++) {
      for (y = 1; y < n - 1; y++) {
        for (x = 1; x < n - 1; x++) {
          for (var axis = 0; axis < 3; axis++) { join(x + n * y + n * n * z, axis); }
        }
      }
    }
    return { points: new Float32Array(points), normals: normals(values, n, points), triangles: new Uint32Array(triangles) };
  }

  function normals(values, n, points) {
    function value(x, y, z) { // trilinear
      var i = Math.min(Math.max(x | 0, 0), n - 2), j = Math.min(Math.max(y | 0, 0), n - 2);
      var k = Math.min(Math.max(z | 0, 0), n - 2), at = i + n * j + n * n * k;
      var u = x - i, v = y - j, w = z - k;
      function row(p) { return values[p] + u * (values[p + 1] - values[p]); }
      function plane(p) { return row(p) + v * (row(p + n) - row(p)); }
      return plane(at) + w * (plane(at + n * n) - plane(at));
    }
    var out = new Float32Array(points.length);
    for (var p = 0; p < points.length; p += 3) {
      var x = points[p], y = points[p + 1], z = points[p + 2];
      var a = value(x - 1, y, z) - value(x + 1, y, z);
      var b = value(x, y - 1, z) - value(x, y + 1, z);
      var c = value(x, y, z - 1) - value(x, y, z + 1);
      var size = Math.hypot(a, b, c) || 1;
      out[p] = a / size; out[p + 1] = b / size; out[p + 2] = c / size;
    }
    return out;
  }

  // ------------------------------------------------------------------------------------------ drawing

  var VERTEX = `#version 300 es
    in vec3 point, normal; // point: of the unit cube, centre 0
    uniform mat3 turn; uniform vec2 zoom;
    out vec3 facing; out float away;
    void main() {
      vec3 seen = turn * point;
      facing = turn * normal; away = seen.z;
      gl_Position = vec4(seen.x * zoom.x, -seen.y * zoom.y, seen.z, 1.0);
    }`;
  var FRAGMENT = `#version 300 es
    precision highp float;
    in vec3 facing; in float away;
    uniform vec3 colour, paper; uniform float opacity;
    out vec4 shown;
    void main() {
      vec3 lamp = normalize(vec3(-0.40, -0.55, -0.73)), n = normalize(facing);
      float lit = max(dot(n, lamp), 0.0), gloss = pow(max(dot(n, normalize(lamp - vec3(0, 0, 1))), 0.0), 40.0);
      vec3 mixed = colour * (0.42 + 0.72 * lit) + 0.16 * gloss;
      mixed = mix(mixed, paper, 0.40 * smoothstep(-0.4, 0.6, away));
      shown = vec4(mixed * opacity, opacity);
    }`;

  function program() {
    var made = gl.createProgram();
    [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]].forEach(function (part) {
      var shader = gl.createShader(part[0]);
      gl.shaderSource(shader, part[1]);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) { throw new Error(gl.getShaderInfoLog(shader)); }
      gl.attachShader(made, shader);
    });
    gl.linkProgram(made);
    if (!gl.getProgramParameter(made, gl.LINK_STATUS)) { throw new Error(gl.getProgramInfoLog(made)); }
    return made;
  }

  var painter = program();
  var slots = {};
  ["turn", "zoom", "colour", "paper", "opacity"].forEach(function (name) {
    slots[name] = gl.getUniformLocation(painter, name);
  });

  function load(item) { // the surface at the item's level, to the graphics card
    var n = item.map.fine, found = extract(item.values, n, item.level);
    var points = found.points.map(function (v) { return (v + 0.5) / n - 0.5; });
    item.array = item.array || gl.createVertexArray();
    item.buffers = item.buffers || [gl.createBuffer(), gl.createBuffer(), gl.createBuffer()];
    gl.bindVertexArray(item.array);
    [["point", points], ["normal", found.normals]].forEach(function (part, k) {
      var slot = gl.getAttribLocation(painter, part[0]);
      gl.bindBuffer(gl.ARRAY_BUFFER, item.buffers[k]);
      gl.bufferData(gl.ARRAY_BUFFER, part[1], gl.DYNAMIC_DRAW);
      gl.enableVertexAttribArray(slot);
      gl.vertexAttribPointer(slot, 3, gl.FLOAT, false, 0, 0);
    });
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, item.buffers[2]);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, found.triangles, gl.DYNAMIC_DRAW);
    gl.bindVertexArray(null);
    item.count = found.triangles.length;
    item.loaded = item.level;
  }

  function colourOf(name) { // a #rrggbb of the page's style
    var text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    text = text.length === 4 ? text.replace(/[0-9a-f]/gi, "$&$&") : text;
    return [1, 3, 5].map(function (at) { return parseInt(text.slice(at, at + 2), 16) / 255; });
  }

  function paint(item, opacity) {
    gl.uniform3fv(slots.colour, colourOf(item.colour));
    gl.uniform1f(slots.opacity, opacity);
    gl.bindVertexArray(item.array);
    gl.drawElements(gl.TRIANGLES, item.count, gl.UNSIGNED_INT, 0);
  }

  // Opaque alone; laid over another, its nearest layer only, half transparent: depth first, then colour.
  function veil(item) {
    gl.colorMask(false, false, false, false);
    paint(item, 1);
    gl.colorMask(true, true, true, true);
    gl.depthFunc(gl.EQUAL);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    paint(item, 0.55);
    gl.disable(gl.BLEND);
    gl.depthFunc(gl.LESS);
  }

  var items = JSON.parse(held.textContent).map(function (map, k) {
    var values = refine(map);
    return { map: map, values: values, content: content(values), level: map.level, colour: ["--first", "--second"][k] };
  });
  var chosen = "0", turn, zoom, waiting = false;

  function draw() {
    waiting = false;
    var dots = window.devicePixelRatio || 1, wide = canvas.clientWidth, high = canvas.clientHeight;
    if (!wide || !high) { return; }
    if (canvas.width !== Math.round(wide * dots) || canvas.height !== Math.round(high * dots)) {
      canvas.width = Math.round(wide * dots);
      canvas.height = Math.round(high * dots);
    }
    var shown = chosen === "both" ? items : [items[+chosen]], edge = Math.min(wide, high);
    shown.forEach(function (item) { if (item.loaded !== item.level) { load(item); } });
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.depthFunc(gl.LESS);
    gl.useProgram(painter);
    gl.uniformMatrix3fv(slots.turn, true, turn);
    gl.uniform2f(slots.zoom, 2 * zoom * edge / wide, 2 * zoom * edge / high);
    gl.uniform3fv(slots.paper, colourOf("--paper"));
    paint(shown[0], 1);
    if (shown.length > 1) { veil(shown[1]); }
    canvas.dataset.triangles = shown.reduce(function (sum, item) { return sum + item.count / 3; }, 0);
    canvas.dataset.shown = chosen;
    bar.style.width = 100 * zoom * bar.dataset.share * edge / wide + "%";
  }

  function later() {
    if (!waiting) { waiting = true; requestAnimationFrame(draw); }
  }

  // ----------------------------------------------------------------------------------------- handling

  var stage = document.getElementById("stage"), slider = document.getElementById("level");
  var told = document.getElementById("told"), bar = document.getElementById("surface-bar");
  var buttons = Array.prototype.slice.call(document.querySelectorAll("#controls button[data-show]"));

  function most(item) { return item.content.sorted[0]; }

  // The slider holds the level of the reconstruction; the truth follows at the level of equal volume.
  function setLevel(level) {
    var first = items[0], map = first.map;
    first.level = level;
    var count = countAbove(first.content.sorted, level), total = first.content.mass.length - 1;
    var edge = map.voxel_size * map.box / map.fine, volume = count * edge * edge * edge;
    items.slice(1).forEach(function (item) {
      item.level = item.content.sorted[Math.min(Math.max(count - 1, 0), item.content.sorted.length - 1)];
    });
    var share = 100 * first.content.mass[count] / first.content.mass[total];
    told.textContent = (level / most(first)).toFixed(2) + " of the maximum, " + (level / map.deviation).toFixed(1)
      + " s.d. of the map above its surroundings. Encloses " + share.toFixed(0) + " % of the positive density in "
      + Number(volume.toPrecision(2)).toLocaleString("en") + " Å³, the volume of "
      + Number((volume * DALTON / 1000).toPrecision(2)) + " kDa of protein."
      + (items.length > 1 ? " The truth is drawn at the level of equal volume." : "");
    slider.value = level / most(first);
    slider.setAttribute("aria-valuetext", told.textContent);
    later();
  }

  function rotate(right, down) { // what is near follows the hand
    var c = Math.cos(right), s = Math.sin(right), d = Math.cos(down), e = Math.sin(down);
    multiply([c, 0, -s, 0, 1, 0, s, 0, c]);
    multiply([1, 0, 0, 0, d, -e, 0, e, d]);
    later();
  }

  function multiply(by) {
    var out = [];
    for (var i = 0; i < 9; i++) {
      var row = 3 * Math.floor(i / 3), column = i % 3;
      out.push(by[row] * turn[column] + by[row + 1] * turn[3 + column] + by[row + 2] * turn[6 + column]);
    }
    turn = out;
  }

  function enlarge(factor) { zoom = Math.min(Math.max(zoom * factor, 0.4), 8); later(); }

  // From the centre to the farthest sample above the level, in edges of the box.
  function reach(item) {
    var n = item.map.fine, farthest = 0;
    for (var i = 0; i < item.values.length; i++) {
      if (item.values[i] < item.level) { continue; }
      var x = i % n, y = Math.floor(i / n) % n, z = Math.floor(i / (n * n)), middle = (n - 1) / 2;
      farthest = Math.max(farthest, Math.hypot(x - middle, y - middle, z - middle));
    }
    return farthest / n;
  }

  function reset() {
    turn = [1, 0, 0, 0, 1, 0, 0, 0, 1];
    setLevel(items[0].map.level);
    zoom = Math.min(Math.max(0.46 / Math.max.apply(null, items.map(reach)), 0.6), 3);
  }

  function show(name) {
    chosen = name;
    buttons.forEach(function (b) { b.setAttribute("aria-pressed", String(b.dataset.show === name)); });
    later();
  }

  var pointers = {};

  function spread() {
    var p = Object.keys(pointers).map(function (id) { return pointers[id]; });
    return p.length < 2 ? 0 : Math.hypot(p[0][0] - p[1][0], p[0][1] - p[1][1]);
  }

  canvas.addEventListener("pointerdown", function (event) {
    pointers[event.pointerId] = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", function (event) {
    var old = pointers[event.pointerId];
    if (!old) { return; }
    var before = spread(), scale = 3.5 / Math.min(canvas.clientWidth, canvas.clientHeight);
    pointers[event.pointerId] = [event.clientX, event.clientY];
    if (before) { enlarge(spread() / before); } else {
      rotate((event.clientX - old[0]) * scale, (event.clientY - old[1]) * scale);
    }
  });
  ["pointerup", "pointercancel"].forEach(function (name) {
    canvas.addEventListener(name, function (event) { delete pointers[event.pointerId]; });
  });
  canvas.addEventListener("wheel", function (event) { // the page scrolls on, unless the surface was taken up
    if (document.activeElement !== canvas && !event.ctrlKey) { return; }
    event.preventDefault();
    enlarge(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.04 : 0.0015)));
  }, { passive: false });
  canvas.addEventListener("dblclick", reset);
  canvas.addEventListener("keydown", function (event) {
    var step = 0.12, moves = {
      ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step]
    };
    if (event.ctrlKey || event.metaKey || event.altKey) { return; }
    if (moves[event.key]) { rotate(moves[event.key][0], moves[event.key][1]); }
    else if (event.key === "+" || event.key === "=") { enlarge(1.15); }
    else if (event.key === "-") { enlarge(1 / 1.15); }
    else if (event.key === "0" || event.key === "Home") { reset(); }
    else { return; }
    event.preventDefault();
  });
  canvas.addEventListener("webglcontextlost", function () { swap(false); });
  slider.addEventListener("input", function () { setLevel(slider.value * most(items[0])); });
  document.getElementById("reset").addEventListener("click", reset);
  buttons.forEach(function (b) { b.addEventListener("click", function () { show(b.dataset.show); }); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);
  new ResizeObserver(later).observe(canvas);

  function swap(live) {
    stage.hidden = !live;
    document.getElementById("controls").hidden = !live;
    document.getElementById("stills").hidden = live;
  }

  swap(true);
  reset();
  show(chosen);
  draw();
}());
