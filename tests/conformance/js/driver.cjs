// A program for @grpc/grpc-js and @grpc/proto-loader: calls come as lines of JSON and are answered so. Its arguments are
// the folder of the .proto files, the server's address, the encoding and, for TLS, a file of certificates to trust.
// tests/conformance/process_clients.py starts it.

"use strict";

const fs = require("node:fs");
const path = require("node:path");
const readline = require("node:readline");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [folder, address, encoding, trusted] = process.argv.slice(2);
const credentials = trusted ? grpc.credentials.createSsl(fs.readFileSync(trusted)) : grpc.credentials.createInsecure();
const PATIENCE = 20_000;

function service(file, name, options = {}) {
  // 64-bit integers as text, since a number of JavaScript has 53 bits.
  const parsing = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true };
  const loaded = loader.loadSync(path.join(folder, file), parsing);
  const Service = name.split(".").reduce((found, part) => found[part], grpc.loadPackageDefinition(loaded));
  return new Service(address, credentials, { "grpc.max_receive_message_length": -1, ...options });
}

const INFERENCE = ["open_inference.proto", "inference.GRPCInferenceService"];
const GZIP = { "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip };
const inference = service(...INFERENCE);
const compressing = service(...INFERENCE, GZIP);
const models = service("model_service.proto", "keelway.v1.ModelService");
const health = service("health.proto", "grpc.health.v1.Health");

function call(client, method, request, timeout = PATIENCE, items = []) {
  const metadata = new grpc.Metadata();
  for (const [name, value] of items) {
    metadata.add(name, "text" in value ? value.text : Buffer.from(value.base64, "base64"));
  }
  return new Promise((resolve, reject) => {
    client[method](request, metadata, { deadline: Date.now() + timeout }, (error, reply) =>
      error ? reject(error) : resolve(reply),
    );
  });
}

// Of each datatype: its list, its size in bytes, how Buffer reads it and how it writes it.
const KINDS = {
  BOOL: ["bool_contents", 1, (b, at) => b.readUInt8(at) === 1, (b, v, at) => b.writeUInt8(v ? 1 : 0, at)],
  INT8: ["int_contents", 1, (b, at) => b.readInt8(at), (b, v, at) => b.writeInt8(v, at)],
  INT16: ["int_contents", 2, (b, at) => b.readInt16LE(at), (b, v, at) => b.writeInt16LE(v, at)],
  INT32: ["int_contents", 4, (b, at) => b.readInt32LE(at), (b, v, at) => b.writeInt32LE(v, at)],
  INT64: [
    "int64_contents",
    8,
    (b, at) => b.readBigInt64LE(at).toString(),
    (b, v, at) => b.writeBigInt64LE(BigInt(v), at),
  ],
  UINT8: ["uint_contents", 1, (b, at) => b.readUInt8(at), (b, v, at) => b.writeUInt8(v, at)],
  UINT16: ["uint_contents", 2, (b, at) => b.readUInt16LE(at), (b, v, at) => b.writeUInt16LE(v, at)],
  UINT32: ["uint_contents", 4, (b, at) => b.readUInt32LE(at), (b, v, at) => b.writeUInt32LE(v, at)],
  UINT64: [
    "uint64_contents",
    8,
    (b, at) => b.readBigUInt64LE(at).toString(),
    (b, v, at) => b.writeBigUInt64LE(BigInt(v), at),
  ],
  FP32: ["fp32_contents", 4, (b, at) => b.readFloatLE(at), (b, v, at) => b.writeFloatLE(v, at)],
  FP64: ["fp64_contents", 8, (b, at) => b.readDoubleLE(at), (b, v, at) => b.writeDoubleLE(v, at)],
};

function contentsOf(datatype, raw) {
  if (datatype === "BYTES") {
    const elements = [];
    for (let at = 0; at < raw.length; ) {
      const length = raw.readUInt32LE(at);
      elements.push(raw.subarray(at + 4, at + 4 + length));
      at += 4 + length;
    }
    return { bytes_contents: elements };
  }
  const [list, size, read] = KINDS[datatype];
  return { [list]: Array.from({ length: raw.length / size }, (_, index) => read(raw, index * size)) };
}

function rawOf(datatype, contents) {
  if (datatype === "BYTES") {
    return Buffer.concat(
      contents.bytes_contents.flatMap((element) => {
        const length = Buffer.alloc(4);
        length.writeUInt32LE(element.length);
        return [length, element];
      }),
    );
  }
  const [list, size, , write] = KINDS[datatype];
  const raw = Buffer.alloc(contents[list].length * size);
  contents[list].forEach((element, index) => write(raw, element, index * size));
  return raw;
}

function requestOf(asked) {
  const raws = asked.inputs.map((sent) => Buffer.from(sent.raw, "base64"));
  const inputs = asked.inputs.map(({ name, datatype, shape }, at) => ({
    name,
    datatype,
    shape,
    ...(encoding === "raw" ? {} : { contents: contentsOf(datatype, raws[at]) }),
  }));
  return {
    model_name: asked.model,
    model_version: asked.version,
    id: asked.id,
    inputs,
    outputs: (asked.outputs ?? []).map((name) => ({ name })),
    raw_input_contents: encoding === "raw" ? raws : [],
  };
}

function answerOf(reply) {
  const answeredRaw = reply.raw_output_contents.length > 0;
  if (answeredRaw !== (encoding === "raw")) throw new Error("the answer comes in another form than the request");
  const outputs = reply.outputs.map(({ name, datatype, shape, contents }, at) => ({
    name,
    datatype,
    shape: shape.map(Number),
    raw: (answeredRaw ? reply.raw_output_contents[at] : rawOf(datatype, contents)).toString("base64"),
  }));
  return { model: reply.model_name, version: reply.model_version, id: reply.id, outputs };
}

async function infer(asked) {
  const timeout = asked.timeout === undefined ? PATIENCE : asked.timeout * 1000;
  return answerOf(
    await call(asked.gzip ? compressing : inference, "ModelInfer", requestOf(asked), timeout, asked.metadata),
  );
}

async function atOnce(asked) {
  const request = requestOf(asked);
  const calls = Array.from({ length: asked.count }, () => call(inference, "ModelInfer", request));
  return (await Promise.all(calls)).map(answerOf);
}

// What is under way: calls, and streams with what they have said and nobody has asked for yet.
const underWay = [];

function begin(asked) {
  return underWay.push({ call: inference.ModelInfer(requestOf(asked), () => {}) }) - 1;
}

function watch({ service }) {
  const said = [];
  let ask = () => {};
  const call = health.Watch({ service }, { deadline: Date.now() + PATIENCE });
  const add = (item) => {
    said.push(item);
    ask();
  };
  call.on("data", (reply) => add({ status: reply.status }));
  call.on("error", (error) => add({ error }));
  call.on("end", () => add({ status: null }));
  const next = async () => {
    if (said.length === 0) await new Promise((resolve) => (ask = resolve));
    const { status, error } = said.shift();
    if (error) throw error;
    return status;
  };
  return underWay.push({ call, next }) - 1;
}

function valueOf(item) {
  if (item === null) return { null: "NULL" };
  if (Array.isArray(item)) return { list: { values: item.map(valueOf) } };
  return { [{ number: "number", string: "text", boolean: "flag" }[typeof item]]: item };
}

function itemOf(value) {
  if (!value || !value.kind || value.kind === "null") return null;
  return value.kind === "list" ? value.list.values.map(itemOf) : value[value.kind];
}

async function batchPredict(asked) {
  const rows = asked.rows.map((row) => ({
    features: Object.fromEntries(Object.entries(row).map(([name, item]) => [name, valueOf(item)])),
  }));
  const reply = await call(models, "BatchPredict", { model: asked.model, version: asked.version, rows });
  return {
    labels: reply.served.labels.map(itemOf),
    flags: reply.served.flags,
    results: reply.results.map(({ outcome, prediction, error }) =>
      outcome === "error"
        ? { error: [grpc.status[error.code], error.message, error.field] }
        : { value: itemOf(prediction.value), probabilities: prediction.probabilities },
    ),
  };
}

const CALLS = {
  infer,
  at_once: atOnce,
  begin,
  watch,
  next: ({ number }) => underWay[number].next(),
  cancel: ({ number }) => underWay[number].call.cancel() ?? null,
  batch_predict: batchPredict,
  live: async () => (await call(inference, "ServerLive", {})).live,
  ready: async () => (await call(inference, "ServerReady", {})).ready,
  model_ready: async ({ model, version }) => (await call(inference, "ModelReady", { name: model, version })).ready,
  server: () => call(inference, "ServerMetadata", {}),
  model: ({ model, version }) => call(inference, "ModelMetadata", { name: model, version }),
  index: async () => (await call(inference, "RepositoryIndex", {})).models,
  load: async ({ model }) => (await call(inference, "RepositoryModelLoad", { model_name: model })).is_loaded,
  unload: async ({ model }) => (await call(inference, "RepositoryModelUnload", { model_name: model })).is_unloaded,
};

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    let answer;
    try {
      answer = { value: await CALLS[asked.call](asked) };
    } catch (error) {
      if (error.details === undefined) throw error;
      answer = { refused: error.details, status: grpc.status[error.code] };
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
}

main();
