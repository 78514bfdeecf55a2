/**
 * The page of a bundle: loads the model beside it, takes a photo, shows the scores.
 *
 * Nothing here knows the classes: labels, preprocessing, temperature and threshold are read from the bundle's files.
 */
"use strict";

(function () {
  const RUNTIME = "./ort.wasm.bundle.min.mjs";
  const WEB_ASSEMBLY = "ort-wasm-simd-threaded.wasm.gz";
  const MANIFEST = "MANIFEST.json";
  const MOST_BARS = 12;
  const MOST_CHIPS = 40;
  const { MAX_PIXELS, bitmapSource, decode, fit, isKnown, modelInput, shapeOf, softmax } = clipstillPreprocess;

  const at = (id) => document.getElementById(id);
  const percent = (value) => (100 * value).toFixed(1) + " %";
  let newest = 0;
  let working = Promise.resolve();
  let stream = null;

  /** Something that the reader can do something about; its message is one line for them. */
  class PageError extends Error {}

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  /** A line where the reader looks: `where` is "error" of the whole page, or "photo-error". */
  function showError(where, message) {
    at(where).textContent = message;
    at(where).hidden = message === "";
  }

  // ---- The bundle

  /** The bytes of a file beside the page; `onBytes` is told how many have come. */
  async function read(name, onBytes) {
    let response = null;
    const parts = [];
    try {
      response = await fetch(name, { cache: "no-cache" });
      if (response.ok) {
        const reader = response.body.getReader();
        for (let part = await reader.read(); !part.done; part = await reader.read()) {
          parts.push(part.value);
          if (onBytes) onBytes(part.value.length);
        }
      }
    } catch (error) {
      throw new PageError(`${name} cannot be loaded (${error.message}). Is the server still running? Load the page again.`);
    }
    if (!response.ok) {
      throw new PageError(`${name} is missing (the server says ${response.status}). Copy the whole bundle, then load the page again.`);
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  }

  function parse(name, bytes) {
    try {
      return JSON.parse(new TextDecoder().decode(bytes));
    } catch (error) {
      throw new PageError(`${name} cannot be read as JSON (${error.message}). Copy the bundle again.`);
    }
  }

  /** Browsers hash only for pages of https or localhost; elsewhere a damaged file shows when it is used. */
  async function check(name, bytes, manifest) {
    const expected = (manifest.files || {})[name];
    if (expected === undefined) throw new PageError(`${MANIFEST} does not list ${name}. Make the bundle again.`);
    if (!globalThis.crypto || !crypto.subtle) return;
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (hex !== expected) {
      throw new PageError(`${name} was altered (its sha256 differs from ${MANIFEST}). Copy the bundle again.`);
    }
  }

  async function unpacked(bytes) {
    if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
    if (typeof DecompressionStream === "undefined") {
      throw new PageError("This browser is too old for the page. Use one of the year 2023 or later.");
    }
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function checkedJson(name, manifest) {
    const bytes = await read(name);
    await check(name, bytes, manifest);
    return parse(name, bytes);
  }

  async function loadRuntime(manifest, onBytes) {
    const packed = await read(WEB_ASSEMBLY, onBytes);
    // Some servers unpack a .gz on the way; the manifest speaks of the packed file.
    if (packed[0] === 0x1f) await check(WEB_ASSEMBLY, packed, manifest);
    const program = await unpacked(packed);
    let ort = null;
    try {
      ort = await import(RUNTIME);
    } catch (error) {
      throw new PageError(`${RUNTIME.slice(2)} cannot be loaded (${error.message}). Copy the whole bundle, then load the page again.`);
    }
    // Threads would need headers that a plain server of files does not send.
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = program.buffer;
    ort.env.logLevel = "error";
    return ort;
  }

  async function loadBundle(onBytes) {
    const manifest = parse(MANIFEST, await read(MANIFEST));
    const [labels, preprocess, metrics] = await Promise.all(
      ["labels.json", "preprocess.json", "metrics.json"].map((name) => checkedJson(name, manifest)),
    );
    const names = labels.labels;
    if (!Array.isArray(names) || names.length === 0 || !(labels.temperature > 0)) {
      throw new PageError("labels.json does not hold labels and a temperature. Make the bundle again.");
    }
    if (!isKnown(preprocess)) {
      throw new PageError("preprocess.json does not hold a size and crop_fraction, or a resize that this page knows. Make the bundle again.");
    }
    const total = (metrics.export || {}).onnx_bytes;
    const [model, ort] = await Promise.all([
      read("model.onnx", (count) => onBytes(count, total)),
      loadRuntime(manifest, () => {}),
    ]);
    await check("model.onnx", model, manifest);
    let session = null;
    try {
      session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
    } catch (error) {
      throw new PageError(`model.onnx cannot be run (${String(error.message).split("\n")[0]}). Copy the bundle again.`);
    }
    return {
      ort,
      session,
      labels: names.map(String),
      temperature: labels.temperature,
      // Bundles of earlier versions always answer.
      threshold: typeof labels.refusal_threshold === "number" ? labels.refusal_threshold : null,
      ownThreshold: labels.refusal_threshold,
      preprocess,
      info: manifest.info || {},
      metrics,
    };
  }

  // ---- A photo

  /** Width and height without decoding: a picture too large to open must not be opened to find out. */
  function dimensions(url) {
    return new Promise((resolve) => {
      const probe = new Image();
      probe.onload = () => resolve([probe.naturalWidth, probe.naturalHeight]);
      probe.onerror = () => resolve(null);
      probe.src = url;
    });
  }

  async function pixels(file, url, bundle) {
    const unreadable = `${file.name} cannot be read as an image: it is damaged, or of a kind that this browser does not know. Give a JPEG, PNG or WebP.`;
    const found = await dimensions(url);
    if (found === null) throw new PageError(unreadable);
    if (found[0] * found[1] > MAX_PIXELS) {
      throw new PageError(`${file.name} is too large (${found[0]} x ${found[1]} pixels; the limit is ${MAX_PIXELS / 1e6} million). Scale it down first.`);
    }
    let bitmap = null;
    try {
      bitmap = await decode(file);
    } catch {
      throw new PageError(unreadable);
    }
    try {
      return fit(bitmapSource(bitmap), bundle.preprocess);
    } finally {
      bitmap.close();
    }
  }

  async function classify(rgb, bundle) {
    const shape = [1, 3, ...shapeOf(bundle.preprocess)];
    const input = new bundle.ort.Tensor("float32", modelInput(rgb), shape);
    const outputs = await bundle.session.run({ [bundle.session.inputNames[0]]: input });
    const logits = outputs[bundle.session.outputNames[0]].data;
    if (logits.length !== bundle.labels.length) {
      throw new PageError(`model.onnx answers for ${logits.length} classes, but labels.json has ${bundle.labels.length}. Make the bundle again.`);
    }
    return softmax(logits, bundle.temperature);
  }

  /** One photo after the other; of those that wait, only the newest is looked at. */
  function answer(file, bundle) {
    const turn = ++newest;
    showError("photo-error", "");
    stopCamera();
    at("answer").setAttribute("aria-busy", "true");
    working = working.then(() => (turn === newest ? answerNow(file, bundle, turn) : undefined));
  }

  async function answerNow(file, bundle, turn) {
    const url = URL.createObjectURL(file);
    let kept = false;
    try {
      // One frame, so that the page shows that it works before the work takes the processor.
      await new Promise((resolve) => setTimeout(resolve, 20));
      const start = performance.now();
      const rgb = await pixels(file, url, bundle);
      const fitted = performance.now();
      const scores = await classify(rgb, bundle);
      const done = performance.now();
      if (turn !== newest) return;
      showPhoto(url, file.name);
      kept = true;
      showSeen(rgb, shapeOf(bundle.preprocess), fitted - start, done - fitted);
      showScores(scores, bundle);
    } catch (error) {
      if (turn !== newest) return;
      showError("photo-error", error instanceof PageError ? error.message : `${file.name} cannot be classified (${error.message}). Try another photo.`);
    } finally {
      if (!kept) URL.revokeObjectURL(url);
      if (turn === newest) at("answer").setAttribute("aria-busy", "false");
    }
  }

  // ---- What the reader sees

  function showPhoto(url, name) {
    const photo = at("photo");
    if (photo.hasAttribute("src")) URL.revokeObjectURL(photo.src);
    photo.src = url;
    photo.alt = `The photo: ${name}`;
    at("photo-name").textContent = name;
    at("empty").hidden = true;
    at("shown").hidden = false;
  }

  function showSeen(rgb, [height, width], fitMs, modelMs) {
    const canvas = at("seen");
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      for (let channel = 0; channel < 3; channel++) image.data[i * 4 + channel] = rgb[i * 3 + channel];
      image.data[i * 4 + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    at("seen-row").hidden = false;
    at("timing").textContent = `What the model sees, ${width} x ${height} pixels. Reading and fitting took ${Math.round(fitMs)} ms, the model ${Math.round(modelMs)} ms.`;
  }

  function scoreRow(label, score, threshold, isFirst) {
    const row = element("li", isFirst ? "first" : "");
    row.append(element("span", "cls", label));
    const bar = element("span", "bar");
    bar.setAttribute("aria-hidden", "true");
    if (score !== null) {
      const fill = element("i");
      fill.style.width = `${100 * score}%`;
      bar.append(fill);
    }
    if (isFirst && threshold !== null) {
      const tick = element("u");
      tick.style.left = `${100 * threshold}%`;
      tick.title = `threshold ${percent(threshold)}`;
      bar.append(tick);
    }
    row.append(bar, element("span", "num", score === null ? "-" : percent(score)));
    return row;
  }

  function showRows(rows) {
    at("scores").replaceChildren(...rows.slice(0, MOST_BARS));
    at("more-scores").replaceChildren(...rows.slice(MOST_BARS));
    at("rest").hidden = rows.length <= MOST_BARS;
    at("rest-count").textContent = `The other ${rows.length - MOST_BARS} classes`;
  }

  function showScores(scores, bundle) {
    const { labels, threshold } = bundle;
    const order = scores.map((_, index) => index).sort((a, b) => scores[b] - scores[a] || a - b);
    const best = order[0];
    const refused = threshold !== null && scores[best] < threshold;
    showRows(order.map((index, rank) => scoreRow(labels[index], scores[index], threshold, rank === 0)));
    at("answer").classList.toggle("none", refused);
    at("refused").hidden = !refused;
    at("verdict").textContent = refused ? "None of these" : labels[best];
    if (threshold !== null) showThreshold(scores, bundle);
    at("explanation").textContent = explanation(labels[best], scores[best], threshold, refused);
    at("spoken").textContent = refused
      ? `None of these. It resembles ${labels[best]} most, ${percent(scores[best])}.`
      : `${labels[best]}, ${percent(scores[best])}.`;
  }

  /** A slider that shows this photo's answer under another threshold; the bundle keeps its own. */
  function showThreshold(scores, bundle) {
    const slider = at("threshold");
    const own = bundle.ownThreshold;
    slider.value = bundle.threshold;
    slider.oninput = () => showScores(scores, Object.assign(bundle, { threshold: Number(slider.value) }));
    at("threshold-shown").textContent = percent(bundle.threshold) + (bundle.threshold === own ? "" : ` (the bundle: ${percent(own)})`);
    at("threshold-row").hidden = false;
  }

  function explanation(label, score, threshold, refused) {
    if (refused) {
      return `The best score, ${percent(score)} for ${label}, is below the threshold of ${percent(threshold)} (the tick). What it resembles most:`;
    }
    if (threshold === null) return `With a score of ${percent(score)}. This model always answers with one of its classes.`;
    return `With a score of ${percent(score)}; below ${percent(threshold)} (the tick) the answer would be "none of these".`;
  }

  function showBundle(bundle) {
    const { labels, info, metrics } = bundle;
    showRows(labels.map((name) => scoreRow(name, null, null, false)));
    // Fewer classes all have a bar.
    if (labels.length > MOST_BARS) {
      const chips = labels.slice(0, MOST_CHIPS).map((name) => element("li", "", name));
      if (labels.length > MOST_CHIPS) chips.push(element("li", "more", `and ${labels.length - MOST_CHIPS} more`));
      at("classes").replaceChildren(...chips);
      at("classes").hidden = false;
    }
    const named = labels.slice(0, 4).join(", ") + (labels.length > 4 ? " ..." : "");
    document.title = `clipstill: ${named}`;
    at("lead").textContent =
      (labels.length === 1 ? "One class. " : `One of ${labels.length} classes` + (bundle.threshold === null ? ". " : ", or none of them. ")) +
      "The model runs on this device; the photo does not leave it.";
    const measured = metrics.evaluation;
    if (measured && typeof measured.right_and_answered === "number") {
      at("measured").textContent = `right and answered: ${percent(measured.right_and_answered)} of ${measured.n.toLocaleString("en")} real photos`;
    }
    showOrigin(bundle);
  }

  /** What taught the model, in the words of its card. */
  function taughtBy(info) {
    if (info.zero_shot) {
      at("mark").hidden = true;
      return "Nothing was trained: this is the image tower of the teacher, with one stored vector a class.";
    }
    const synthetic = info.images_per_class === undefined || info.images_per_class > 0;
    const photos = (count, kind) => `${count.toLocaleString("en")} ${kind} ${count === 1 ? "photo" : "photos"}`;
    const beside = [];
    if (info.unlabelled > 0) beside.push(photos(info.unlabelled, "unlabelled"));
    if (info.fine_tuned_on > 0) beside.push(photos(info.fine_tuned_on, "labelled"));
    const others = beside.length ? `${synthetic ? ", and on " : "It was trained on "}${beside.join(" and ")}` : "";
    at("mark").hidden = !synthetic;
    if (!synthetic) return `${others || "What it was trained on is not told"}. Its card tells the rest.`;
    return (
      `This model was trained on synthetic images${others}. Software made the images by inverting the teacher. They carry the ` +
      "IPTC digital source type trainedAlgorithmicMedia; keep that mark when you pass the model on."
    );
  }

  function showOrigin({ info, metrics }) {
    at("provenance").textContent = taughtBy(info);
    const facts = at("facts");
    const measured = metrics.evaluation;
    const add = (name, value, under) => {
      if (value === undefined || value === "") return;
      const told = element("dd", "", String(value));
      if (under) told.append(element("div", "under", under));
      facts.append(element("dt", "", name), told);
    };
    add("Student", info.student, `model.onnx, ${(metrics.export.onnx_bytes / 1e6).toFixed(1)} MB`);
    add("Teacher", info.teacher);
    if (info.images_per_class > 0) add("Generator", info.generator);
    if (measured && typeof measured.right_and_answered === "number") {
      const teacher = typeof measured.teacher_top1 === "number" ? `, the teacher ${percent(measured.teacher_top1)}` : "";
      add("Quality", `names ${percent(measured.right_and_answered)} of ${measured.n.toLocaleString("en")} real photos right`,
        `chance ${percent(measured.chance)}${teacher}; none of the photos was used for training`);
    } else {
      add("Quality", "not measured on real photos");
    }
    const licences = [...new Set((metrics.provenance || []).map((part) => part.licence || "none"))];
    add("Made with", (metrics.provenance || []).map((part) => part.name).join("; "), licences.join("; "));
    at("version").textContent = info.clipstill ? ` ${info.clipstill}` : "";
    at("origin").hidden = false;
  }

  // ---- Ways to give a photo

  function stopCamera() {
    if (stream !== null) for (const track of stream.getTracks()) track.stop();
    stream = null;
    at("video").srcObject = null;
    at("camera").hidden = true;
    at("ways").hidden = false;
    const before = at("photo").hasAttribute("src");
    at("shown").hidden = !before;
    at("empty").hidden = before;
  }

  async function startCamera() {
    showError("photo-error", "");
    // Browsers give the camera to pages of https or localhost alone; a phone's own camera program is the way elsewhere.
    if (!navigator.mediaDevices || !navigator.mediaDevices.getUserMedia) {
      at("capture").click();
      return;
    }
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      at("video").srcObject = stream;
      await at("video").play();
    } catch (error) {
      stopCamera();
      showError("photo-error", `There is no camera that this page may use (${error.message}). Choose a photo instead.`);
      return;
    }
    at("empty").hidden = true;
    at("shown").hidden = true;
    at("ways").hidden = true;
    at("camera").hidden = false;
    at("shoot").focus();
  }

  function shoot(bundle) {
    const video = at("video");
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d", { alpha: false }).drawImage(video, 0, 0);
    stopCamera();
    at("take").focus();
    canvas.toBlob((blob) => answer(new File([blob], "camera.png", { type: "image/png" }), bundle), "image/png");
  }

  function cancelCamera() {
    stopCamera();
    at("take").focus();
  }

  function takePhotos(bundle) {
    const first = (files) => {
      if (files.length > 0) answer(files[0], bundle);
    };
    for (const id of ["file", "capture"]) {
      at(id).addEventListener("change", (event) => {
        const files = [...event.target.files];
        // So that the same file can be chosen twice.
        event.target.value = "";
        first(files);
      });
    }
    at("choose").addEventListener("click", () => at("file").click());
    at("take").addEventListener("click", startCamera);
    at("shoot").addEventListener("click", () => shoot(bundle));
    at("camera-off").addEventListener("click", cancelCamera);
    // The whole page takes a photo: a drop beside the frame would else leave the page for the photo.
    let depth = 0;
    const over = (change) => {
      depth = Math.max(0, depth + change);
      at("drop").classList.toggle("over", depth > 0);
    };
    document.addEventListener("dragenter", () => over(1));
    document.addEventListener("dragleave", () => over(-1));
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      over(-depth);
      first([...event.dataTransfer.files]);
    });
    document.addEventListener("paste", (event) => first([...event.clipboardData.files]));
  }

  // ---- Start

  function sayHowToServe() {
    const folder = decodeURIComponent(location.pathname).replace(/\/[^/]*$/, "") || "/";
    const windows = /^\/[A-Za-z]:/.test(folder);
    const path = windows ? folder.slice(1) : folder;
    at("file-command").textContent = `${windows ? "python" : "python3"} -m http.server 8000 --bind localhost --directory "${path}"`;
    at("file-note").hidden = false;
  }

  async function start() {
    if (location.protocol === "file:") {
      sayHowToServe();
      return;
    }
    at("loading").hidden = false;
    let come = 0;
    try {
      const bundle = await loadBundle((count, total) => {
        come += count;
        at("loaded-text").textContent = `${(come / 1e6).toFixed(1)} MB`;
        if (total > 0) at("loaded").value = Math.min(1, come / total);
      });
      showBundle(bundle);
      takePhotos(bundle);
      at("work").hidden = false;
      document.body.dataset.ready = "yes";
    } catch (error) {
      showError("error", error instanceof PageError ? error.message : `The page cannot start (${error.message}).`);
    } finally {
      at("loading").hidden = true;
    }
  }

  start();
})();
