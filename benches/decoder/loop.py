"""One of the programs that the decoder is compared with: `loop.py SIDE FOLDER`, told what to do on stdin, answers in JSON lines.

Sides, each on 2 threads and otherwise as it comes:

* `plain`: onnxruntime with the cache as NumPy arrays, as model cards show it;
* `binding`: the same with IoBinding, the cache stays in ONNX Runtime's values;
* `genai`: onnxruntime-genai on FOLDER/genai.

It prints a line when it is ready. Each line it reads asks for one measurement, as in main.rs: a prompt of 512 tokens, a prompt
of 256 and 64 tokens after it, one by one, the likeliest each, and a second prompt of 320 that begins with those 256.
"""

import json
import pathlib
import sys
import time

import numpy as np

PROMPT, PREFIX, MORE, ANSWER = 512, 256, 64, 64
THREADS = 2


def prompt(seed: int, length: int, vocabulary: int) -> list[int]:
    """Tokens that are not in the order of any text; equal in main.rs."""
    return [(index * 7919 + seed) % (vocabulary - 1) for index in range(length)]


class Plain:
    """A decoder whose cache goes in and out as arrays."""

    def __init__(self, folder: pathlib.Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        load = lambda name: onnxruntime.InferenceSession(folder / "onnx" / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
        self.embed, self.decoder = load("embed_tokens"), load("decoder_model_merged")
        self.inside, self.tokens = 0.0, 0
        self.past = {port.name: port.shape for port in self.decoder.get_inputs() if port.name.startswith("past_key_values")}
        self.clear()

    def clear(self) -> None:
        self.length = 0
        self.cache = {name: np.zeros((1, shape[1], 0, shape[3]), np.float32) for name, shape in self.past.items()}

    def start(self, ids: list[int]) -> np.ndarray:
        """Read a prompt from the start; return the scores after its last token."""
        self.clear()
        return self.read(ids)

    def read(self, ids: list[int]) -> np.ndarray:
        feeds = self.embedded(ids)
        self.length += len(ids)
        self.tokens += len(ids)
        feeds["attention_mask"] = np.ones((1, self.length), np.int64)
        feeds["position_ids"] = np.arange(self.length - len(ids), self.length)[None]
        feeds["num_logits_to_keep"] = np.array(1)
        return self.run(feeds)

    def embedded(self, ids: list[int]) -> dict[str, np.ndarray]:
        started = time.perf_counter()
        values = self.embed.run(None, {"input_ids": np.array([ids])})
        self.inside += time.perf_counter() - started
        return dict(zip((port.name for port in self.embed.get_outputs()), values))

    def run(self, feeds: dict) -> np.ndarray:
        started = time.perf_counter()
        values = self.decoder.run(None, feeds | self.cache)
        self.inside += time.perf_counter() - started
        values = dict(zip((port.name for port in self.decoder.get_outputs()), values))
        self.cache = {name: values[name.replace("past_key_values", "present")] for name in self.cache}
        return values["logits"][0, -1]


class Binding(Plain):
    """A decoder whose cache stays with ONNX Runtime."""

    def clear(self) -> None:
        import onnxruntime

        super().clear()
        self.cache = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in self.cache.items()}

    def run(self, feeds: dict) -> np.ndarray:
        binding = self.decoder.io_binding()
        for name, value in feeds.items():
            binding.bind_cpu_input(name, value)
        for name, value in self.cache.items():
            binding.bind_ortvalue_input(name, value)
        for port in self.decoder.get_outputs():
            binding.bind_output(port.name)
        started = time.perf_counter()
        self.decoder.run_with_iobinding(binding)
        self.inside += time.perf_counter() - started
        values = dict(zip((port.name for port in self.decoder.get_outputs()), binding.get_outputs()))
        self.cache = {name: values[name.replace("past_key_values", "present")] for name in self.cache}
        return values["logits"].numpy()[0, -1]


class Genai:
    """onnxruntime-genai, which keeps what it read and can go back in it."""

    def __init__(self, folder: pathlib.Path):
        import onnxruntime_genai

        self.genai = onnxruntime_genai
        self.model = onnxruntime_genai.Model(str(folder / "genai"))
        self.inside, self.tokens, self.generator = None, 0, None

    def start(self, ids: list[int]) -> np.ndarray:
        shared = 0
        if self.generator:
            pairs = zip(self.generator.get_sequence(0), ids[:-1])
            shared = next((index for index, (one, other) in enumerate(pairs) if one != other), 0)
        if shared:
            self.generator.rewind_to(shared)
        else:
            parameters = self.genai.GeneratorParams(self.model)
            parameters.set_search_options(max_length=PROMPT + PREFIX, do_sample=False)
            self.generator = self.genai.Generator(self.model, parameters)
        return self.read(ids[shared:])

    def read(self, ids: list[int]) -> np.ndarray:
        self.tokens += len(ids)
        self.generator.append_tokens(np.array([ids], np.int32))
        return self.generator.get_logits()[0, -1]

    def answer(self, count: int) -> list[int]:
        """`count` tokens by its own loop, which is the fastest that it has."""
        found = []
        for _ in range(count):
            self.generator.generate_next_token()
            found.append(int(self.generator.get_next_tokens()[0]))
        self.tokens += count
        return found


def answer(side, scores: np.ndarray) -> list[int]:
    if isinstance(side, Genai):
        return side.answer(ANSWER)
    found = []
    for _ in range(ANSWER):
        found.append(int(scores.argmax()))
        scores = side.read(found[-1:])
    return found


def measure(side, vocabulary: int) -> dict:
    """Seconds and tokens of one round."""
    side.start(prompt(5, 8, vocabulary))
    started = time.perf_counter()
    side.start(prompt(1, PROMPT, vocabulary))
    prefill = time.perf_counter() - started
    first = prompt(2, PREFIX, vocabulary)
    scores = side.start(first)
    inside, started = side.inside, time.perf_counter()
    found = answer(side, scores)
    decode = time.perf_counter() - started
    outside = None if inside is None else 1 - (side.inside - inside) / decode
    tokens, started = side.tokens, time.perf_counter()
    side.start(first + prompt(3, MORE, vocabulary))
    return {"prefill": prefill, "decode": decode, "outside": outside, "second": time.perf_counter() - started,
            "second_tokens": side.tokens - tokens, "answer": found}


def main() -> None:
    name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    side = {"plain": Plain, "binding": Binding, "genai": Genai}[name](folder)
    vocabulary = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocabulary"]
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure(side, vocabulary)), flush=True)


if __name__ == "__main__":
    main()
