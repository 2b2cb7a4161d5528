"use strict";
// Volumes out of the page's own text. Arrays are (X, Y, Z), RAS+, Z running fastest.
const bytesOf = (text) => {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
};

const inflate = async (text) => {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old for the case viewer");
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

// Tiles of sagittal slices, head up, back to a volume of 8-bit grays.
const unpackScan = async (scan, [nx, ny, nz]) => {
  const volume = new Uint8Array(nx * ny * nz);
  const [width, height] = scan.tile;
  const each = scan.columns * scan.rows;
  for (const [number, text] of scan.pages.entries()) {
    const picture = new Image();
    picture.src = `data:image/webp;base64,${text}`;
    await picture.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [picture.width, picture.height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    for (let place = 0; place < each && number * each + place < nx; place++) {
      const [left, top] = [(place % scan.columns) * width, Math.floor(place / scan.columns) * height];
      const first = (number * each + place) * ny * nz;
      for (let z = 0; z < nz; z++) {
        const row = (top + nz - 1 - z) * canvas.width + left;
        for (let y = 0; y < ny; y++) volume[first + y * nz + z] = pixels[4 * (row + y)];
      }
    }
  }
  return volume;
};

// Axes across and down of each plane; both run against RAS+: front, right and head come first.
const PLANES = {
  sagittal: { axis: 0, across: 1, down: 2 },
  coronal: { axis: 1, across: 0, down: 2 },
  axial: { axis: 2, across: 0, down: 1 },
};

// Call visit(pixel, voxel) for each pixel of a plane.
const walk = (shape, { axis, across, down }, index, visit) => {
  const steps = [shape[1] * shape[2], shape[2], 1];
  const [width, height] = [shape[across], shape[down]];
  for (let r = 0; r < height; r++) {
    let voxel = index * steps[axis] + (height - 1 - r) * steps[down] + (width - 1) * steps[across];
    for (let c = 0; c < width; c++, voxel -= steps[across]) visit(r * width + c, voxel);
  }
};

const DIFFERENCES = { missed: [53, 167, 255], extra: [255, 210, 63], renamed: [255, 79, 154] };

// Colour of the voxel's label in a mode, or null where nothing is to be drawn.
const paint = (map, reference, mode, hidden, voxel) => {
  const label = map.labels[voxel];
  if (mode === "differences" && reference && map !== reference) {
    const truth = reference.labels[voxel];
    const named = map.named && reference.named;
    if ((truth > 0) === (label > 0) && (!named || truth === label)) return null;
    if (named && hidden.has(truth || label)) return null;
    return label === 0 ? DIFFERENCES.missed : truth === 0 ? DIFFERENCES.extra : DIFFERENCES.renamed;
  }
  return label === 0 || (map.named && hidden.has(label)) ? null : map.colors(label);
};

// The overlay of a plane as RGBA; an outline keeps pixels that have another label beside them.
const overlay = (context, map, reference, shape, plane, index, mode, hidden, alpha) => {
  const [width, height] = [shape[plane.across], shape[plane.down]];
  const image = context.createImageData(width, height);
  if (mode === "none") return image;
  const labels = new Uint8Array(width * height);
  walk(shape, plane, index, (pixel, voxel) => {
    labels[pixel] = map.labels[voxel];
    const color = paint(map, reference, mode, hidden, voxel);
    if (color) image.data.set([color[0], color[1], color[2], alpha], 4 * pixel);
  });
  if (mode === "outline" || (mode === "differences" && map === reference)) {
    for (let p = 0; p < labels.length; p++) {
      const c = p % width;
      const inner = c > 0 && c < width - 1 && p >= width && p < labels.length - width
        && labels[p - 1] === labels[p] && labels[p + 1] === labels[p]
        && labels[p - width] === labels[p] && labels[p + width] === labels[p];
      if (inner) image.data[4 * p + 3] = 0;
    }
  }
  return image;
};
