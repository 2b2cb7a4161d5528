"use strict";
// Triangle surfaces drawn by the processor into a depth buffer: the same picture with and without a graphics card, and
// no limit on how many of them a page may hold.
class Surfaces {
  // parts: [label, vertices, triangles] of `values` (uint16: all vertices, then all triangles); colors: label → [r, g, b].
  constructor(meshes, values, centre, colors) {
    const vertices = meshes.parts.reduce((sum, part) => sum + part[1], 0);
    let v = 0;
    let t = 3 * vertices;
    this.parts = meshes.parts.map(([label, points, triangles]) => {
      const place = new Float32Array(3 * points);
      for (let i = 0; i < place.length; i++) {
        place[i] = values[v + i] * meshes.step_mm + meshes.origin_mm[i % 3] - centre[i % 3];
      }
      const index = values.subarray(t, t + 3 * triangles);
      v += place.length;
      t += index.length;
      return { label, place, index, normals: Surfaces.normals(place, index), color: colors(label) };
    });
  }

  static normals(place, index) {
    const normals = new Float32Array(place.length);
    for (let i = 0; i < index.length; i += 3) {
      const [a, b, c] = [3 * index[i], 3 * index[i + 1], 3 * index[i + 2]];
      const u = [0, 1, 2].map((k) => place[b + k] - place[a + k]);
      const w = [0, 1, 2].map((k) => place[c + k] - place[a + k]);
      const n = [u[1] * w[2] - u[2] * w[1], u[2] * w[0] - u[0] * w[2], u[0] * w[1] - u[1] * w[0]];
      for (const corner of [a, b, c]) for (let k = 0; k < 3; k++) normals[corner + k] += n[k];
    }
    for (let i = 0; i < normals.length; i += 3) {
      const length = Math.hypot(normals[i], normals[i + 1], normals[i + 2]) || 1;
      for (let k = 0; k < 3; k++) normals[i + k] /= length;
    }
    return normals;
  }

  // yaw 0 looks from the front (patient's right on the left), 90° from the left; pitch lifts the eye. scale: px a mm.
  draw(canvas, { yaw, pitch, scale, hidden }) {
    const { width, height } = canvas;
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const pixels = image.data;
    const depth = new Float32Array(width * height).fill(-Infinity);
    const [ca, sa, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    const right = [-ca, -sa, 0];
    const toward = [-sa * cp, ca * cp, sp];
    const up = [sa * sp, -ca * sp, cp];
    const light = [0, 1, 2].map((k) => (0.86 * toward[k] + 0.42 * up[k] - 0.28 * right[k]));
    for (const part of this.parts) {
      if (hidden.has(part.label)) continue;
      const { place, normals, index, color } = part;
      const count = place.length / 3;
      const [sx, sy, sz, shade] = [0, 1, 2, 3].map(() => new Float32Array(count));
      for (let i = 0; i < count; i++) {
        const [x, y, z] = [place[3 * i], place[3 * i + 1], place[3 * i + 2]];
        sx[i] = width / 2 + scale * (x * right[0] + y * right[1]);
        sy[i] = height / 2 - scale * (x * up[0] + y * up[1] + z * up[2]);
        sz[i] = x * toward[0] + y * toward[1] + z * toward[2];
        const lit = normals[3 * i] * light[0] + normals[3 * i + 1] * light[1] + normals[3 * i + 2] * light[2];
        shade[i] = 0.3 + 0.75 * Math.max(0, lit);
      }
      for (let i = 0; i < index.length; i += 3) {
        const [a, b, c] = [index[i], index[i + 1], index[i + 2]];
        // Screen rows run down, so a triangle that is seen from outside turns to the right here.
        const area = (sx[b] - sx[a]) * (sy[c] - sy[a]) - (sx[c] - sx[a]) * (sy[b] - sy[a]);
        if (area >= 0) continue;
        const left = Math.max(0, Math.ceil(Math.min(sx[a], sx[b], sx[c])));
        const last = Math.min(width - 1, Math.floor(Math.max(sx[a], sx[b], sx[c])));
        const top = Math.max(0, Math.ceil(Math.min(sy[a], sy[b], sy[c])));
        const bottom = Math.min(height - 1, Math.floor(Math.max(sy[a], sy[b], sy[c])));
        for (let y = top; y <= bottom; y++) {
          for (let x = left; x <= last; x++) {
            const wb = ((x - sx[a]) * (sy[c] - sy[a]) - (sx[c] - sx[a]) * (y - sy[a])) / area;
            const wc = ((sx[b] - sx[a]) * (y - sy[a]) - (x - sx[a]) * (sy[b] - sy[a])) / area;
            const wa = 1 - wb - wc;
            if (wa < 0 || wb < 0 || wc < 0) continue;
            const z = wa * sz[a] + wb * sz[b] + wc * sz[c];
            const at = y * width + x;
            if (z <= depth[at]) continue;
            depth[at] = z;
            const s = wa * shade[a] + wb * shade[b] + wc * shade[c];
            for (let k = 0; k < 3; k++) pixels[4 * at + k] = Math.min(255, color[k] * s);
            pixels[4 * at + 3] = 255;
          }
        }
      }
    }
    context.putImageData(image, 0, 0);
  }
}
