"use strict";
// One case: three planes and the surfaces of every label map side by side, moved together.
class CaseViewer {
  constructor(article, data) {
    this.article = article;
    this.data = data;
    this.shape = data.shape;
    this.at = data.shape.map((n) => Math.floor(n / 2));
    this.hidden = new Set();
    this.mode = "fill";
    this.camera = { yaw: 0.6, pitch: 0.15, zoom: 1 };
    this.pending = new Set();
  }

  async load() {
    const { data } = this;
    this.scan = data.scan ? await unpackScan(data.scan, this.shape) : null;
    const box = [[Infinity, Infinity, Infinity], [-Infinity, -Infinity, -Infinity]];
    this.maps = [];
    for (const map of data.maps) {
      const palette = map.named ? data.levels : data.numbers;
      const colors = (label) => (map.named ? palette[label][1] : palette[(label - 1) % palette.length]);
      const name = (label) => (map.named ? palette[label][0] : `vertebra ${label}`);
      const bytes = await inflate(map.mesh.data);
      const values = new Uint16Array(bytes.buffer, 0, bytes.length >> 1);
      const points = map.mesh.parts.reduce((sum, part) => sum + part[1], 0);
      for (let i = 0; i < 3 * points; i++) {
        const mm = values[i] * map.mesh.step_mm + map.mesh.origin_mm[i % 3];
        box[0][i % 3] = Math.min(box[0][i % 3], mm);
        box[1][i % 3] = Math.max(box[1][i % 3], mm);
      }
      this.maps.push({ ...map, labels: await inflate(map.labels), colors, name, values });
    }
    const empty = box[0][0] > box[1][0];
    const centre = [0, 1, 2].map((k) => (empty ? 0 : (box[0][k] + box[1][k]) / 2));
    const size = [0, 1, 2].map((k) => (empty ? 100 : box[1][k] - box[0][k]));
    this.across = Math.hypot(size[0], size[1]) + 8;
    this.tall = Math.hypot(size[2], 0.15 * this.across) + 8;
    this.reference = this.maps.find((map) => map.reference) ?? null;
    for (const map of this.maps) map.surfaces = new Surfaces(map.mesh, map.values, centre, map.colors);
    this.startAtLabels();
  }

  // The middle of what is labelled, in the reference or else in the first map that has something.
  startAtLabels(level) {
    const hit = (label) => (level === undefined ? label > 0 : label === level);
    for (const map of [this.reference, ...this.maps]) {
      if (!map || (level !== undefined && !map.named)) continue;
      const [, ny, nz] = this.shape;
      const sum = [0, 0, 0];
      let count = 0;
      for (let i = 0; i < map.labels.length; i++) {
        if (!hit(map.labels[i])) continue;
        count++;
        sum[0] += Math.floor(i / (ny * nz));
        sum[1] += Math.floor(i / nz) % ny;
        sum[2] += i % nz;
      }
      if (count) {
        this.at = sum.map((value) => Math.round(value / count));
        return;
      }
    }
  }

  start() {
    const { article } = this;
    article.querySelector(".viewer").hidden = false;
    for (const section of article.querySelectorAll(".plane[data-plane]")) this.startPlane(section);
    this.startSurfaces(article.querySelector(".space"));
    this.startTools();
    this.drawAll();
  }

  startPlane(section) {
    const plane = PLANES[section.dataset.plane];
    const slider = section.querySelector("input");
    slider.max = this.shape[plane.axis] - 1;
    slider.addEventListener("input", () => this.move({ [plane.axis]: Number(slider.value) }));
    const mm = (axis) => this.shape[axis] * this.data.spacing_mm[axis];
    const finest = Math.min(this.data.spacing_mm[plane.across], this.data.spacing_mm[plane.down]);
    const scale = Math.min(1 / finest, 640 / Math.max(mm(plane.across), mm(plane.down)));
    for (const canvas of section.querySelectorAll("canvas")) {
      canvas.width = Math.max(1, Math.round(mm(plane.across) * scale * 1.5));
      canvas.height = Math.max(1, Math.round(mm(plane.down) * scale * 1.5));
      canvas.style.maxWidth = `${(28 * canvas.width) / canvas.height}rem`;
      const voxel = (event) => {
        const frame = canvas.getBoundingClientRect();
        const place = (offset, length, n) => Math.min(n - 1, Math.max(0, n - 1 - Math.floor((offset / length) * n)));
        return {
          [plane.across]: place(event.clientX - frame.left, frame.width, this.shape[plane.across]),
          [plane.down]: place(event.clientY - frame.top, frame.height, this.shape[plane.down]),
        };
      };
      const output = canvas.parentElement.querySelector(".under");
      canvas.addEventListener("pointermove", (event) => {
        if (event.buttons & 1) this.move(voxel(event));
        const [x, y, z] = Object.values({ ...this.at, ...voxel(event) });
        const map = this.maps[canvas.dataset.map];
        const voxel3 = (x * this.shape[1] + y) * this.shape[2] + z;
        const label = map.labels[voxel3];
        const truth = this.reference && map !== this.reference ? this.reference.labels[voxel3] : label;
        const own = label ? map.name(label) : "–";
        const differs = truth !== label && (!truth || !label || (map.named && this.reference.named));
        output.textContent = !differs ? (label ? own : "") : `${own}, reference ${truth ? this.reference.name(truth) : "–"}`;
      });
      canvas.addEventListener("pointerdown", (event) => this.move(voxel(event)));
      canvas.addEventListener("pointerleave", () => { output.textContent = ""; });
    }
  }

  startSurfaces(section) {
    const turns = { front: [0, 0], left: [1, 0], back: [2, 0], right: [-1, 0], top: [0, 1] };
    const turn = (yaw, pitch) => {
      this.camera.yaw = yaw;
      this.camera.pitch = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, pitch));
      this.later("surfaces");
    };
    const zoom = (factor) => {
      this.camera.zoom = Math.max(0.5, Math.min(8, this.camera.zoom * factor));
      this.later("surfaces");
    };
    for (const button of section.querySelectorAll("[data-turn]")) {
      const [yaw, pitch] = turns[button.dataset.turn].map((quarter) => (quarter * Math.PI) / 2);
      button.addEventListener("click", () => turn(yaw, pitch));
    }
    for (const button of section.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => zoom(Number(button.dataset.zoom)));
    }
    const shape = Math.max(0.9, Math.min(2, this.tall / this.across));
    for (const canvas of section.querySelectorAll("canvas")) {
      canvas.width = 360;
      canvas.height = Math.round(360 * shape);
      canvas.style.maxWidth = `${28 / shape}rem`;
      canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
      canvas.addEventListener("pointermove", (event) => {
        if (event.buttons & 1) turn(this.camera.yaw - event.movementX / 120, this.camera.pitch + event.movementY / 120);
      });
      canvas.addEventListener("keydown", (event) => {
        const { yaw, pitch } = this.camera;
        const moves = {
          ArrowLeft: () => turn(yaw + 0.15, pitch),
          ArrowRight: () => turn(yaw - 0.15, pitch),
          ArrowUp: () => turn(yaw, pitch - 0.15),
          ArrowDown: () => turn(yaw, pitch + 0.15),
          "+": () => zoom(1.25),
          "-": () => zoom(0.8),
        };
        if (!moves[event.key]) return;
        event.preventDefault();
        moves[event.key]();
      });
    }
  }

  startTools() {
    const { article } = this;
    for (const radio of article.querySelectorAll("[data-mode]")) {
      radio.addEventListener("change", () => {
        this.mode = radio.dataset.mode;
        article.querySelector(".key").hidden = this.mode !== "differences";
        this.later("planes");
      });
    }
    this.opacity = article.querySelector(".opacity");
    this.opacity.addEventListener("input", () => {
      this.opacity.nextElementSibling.textContent = `${this.opacity.value} %`;
      this.later("planes");
    });
    this.cross = article.querySelector(".cross");
    this.cross.addEventListener("change", () => this.later("planes"));
    const chips = [...article.querySelectorAll(".level[data-level]")];
    const all = article.querySelector(".level.all");
    const show = (chip, shown) => {
      chip.setAttribute("aria-pressed", String(shown));
      this.hidden[shown ? "delete" : "add"](Number(chip.dataset.level));
      all.setAttribute("aria-pressed", String(this.hidden.size === 0));
      this.later("planes", "surfaces");
    };
    for (const chip of chips) {
      chip.querySelector(".swatch").style.background = chip.querySelector(".swatch").dataset.color;
      chip.addEventListener("click", () => show(chip, chip.getAttribute("aria-pressed") !== "true"));
    }
    all?.addEventListener("click", () => {
      const shown = all.getAttribute("aria-pressed") !== "true";
      for (const chip of chips) show(chip, shown);
    });
    for (const button of article.querySelectorAll(".go")) {
      button.addEventListener("click", () => {
        this.startAtLabels(Number(button.dataset.level));
        this.later("planes");
        const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
        article.querySelector(".tools").scrollIntoView({ behavior: still ? "auto" : "smooth" });
      });
    }
  }

  move(where) {
    for (const [axis, index] of Object.entries(where)) this.at[axis] = index;
    this.later("planes");
  }

  // Several changes within a frame are drawn once.
  later(...what) {
    if (!this.pending.size) requestAnimationFrame(() => this.drawPending());
    for (const each of what) this.pending.add(each);
  }

  drawPending() {
    if (this.pending.has("planes")) this.drawPlanes();
    if (this.pending.has("surfaces")) this.drawSurfaces();
    this.pending.clear();
  }

  drawAll() {
    this.drawPlanes();
    this.drawSurfaces();
  }

  drawPlanes() {
    for (const section of this.article.querySelectorAll(".plane[data-plane]")) {
      const plane = PLANES[section.dataset.plane];
      const slider = section.querySelector("input");
      const index = this.at[plane.axis];
      slider.value = index;
      slider.nextElementSibling.textContent = `${index + 1} of ${this.shape[plane.axis]}`;
      const scan = this.scanOf(plane, index);
      for (const canvas of section.querySelectorAll("canvas")) this.drawPlane(canvas, plane, scan);
    }
  }

  scanOf(plane, index) {
    const picture = new OffscreenCanvas(this.shape[plane.across], this.shape[plane.down]);
    const context = picture.getContext("2d");
    const image = context.createImageData(picture.width, picture.height);
    walk(this.shape, plane, index, (pixel, voxel) => {
      const gray = this.scan ? this.scan[voxel] : 18;
      image.data.set([gray, gray, gray, 255], 4 * pixel);
    });
    context.putImageData(image, 0, 0);
    return picture;
  }

  drawPlane(canvas, plane, scan) {
    const context = canvas.getContext("2d");
    const { width, height } = canvas;
    const map = this.maps[canvas.dataset.map];
    const index = this.at[plane.axis];
    context.imageSmoothingEnabled = true;
    context.drawImage(scan, 0, 0, width, height);
    const marked = new OffscreenCanvas(scan.width, scan.height);
    const over = marked.getContext("2d");
    const alpha = this.mode === "outline" ? 255 : 255 * (Number(this.opacity.value) / 100);
    over.putImageData(overlay(over, map, this.reference, this.shape, plane, index, this.mode, this.hidden, alpha), 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(marked, 0, 0, width, height);
    if (!this.cross.checked) return;
    context.strokeStyle = "#ffffff66";
    context.lineWidth = Math.max(1, width / 400);
    const x = ((this.shape[plane.across] - this.at[plane.across] - 0.5) / this.shape[plane.across]) * width;
    const y = ((this.shape[plane.down] - this.at[plane.down] - 0.5) / this.shape[plane.down]) * height;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, height);
    context.moveTo(0, y);
    context.lineTo(width, y);
    context.stroke();
  }

  drawSurfaces() {
    const { yaw, pitch, zoom } = this.camera;
    for (const canvas of this.article.querySelectorAll(".space canvas")) {
      const scale = zoom * Math.min(canvas.width / this.across, canvas.height / this.tall);
      const map = this.maps[canvas.dataset.map];
      map.surfaces.draw(canvas, { yaw, pitch, scale, hidden: map.named ? this.hidden : new Set() });
    }
  }
}

const startCases = async () => {
  for (const article of document.querySelectorAll(".case")) {
    const status = article.querySelector(".status");
    const source = document.getElementById(article.dataset.case);
    try {
      const viewer = new CaseViewer(article, JSON.parse(source.textContent));
      await viewer.load();
      source.remove(); // the text of the volumes is not needed again
      viewer.start();
      status.textContent = "";
      article.dataset.ready = "true";
    } catch (error) {
      status.textContent = `The viewer cannot show this case here: ${error.message}.`;
    }
  }
};
startCases();
