"""Times ONNX Runtime's forward pass on a file, as the other side of `priorfit bench --predict`."""

import argparse
import json
import statistics
import time

import numpy
import onnxruntime

from memory import peak_rss_mb

WARM_UP = 3


def session(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def timed(work):
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def measure(arguments):
    rss_before = peak_rss_mb()
    network = session(arguments.file, arguments.threads)
    shape = (arguments.batch, 3, arguments.size, arguments.size)
    images = numpy.random.default_rng(0).standard_normal(shape, dtype=numpy.float32)
    feed = {network.get_inputs()[0].name: images}

    def predict():
        network.run(None, feed)

    predict()
    first_ms = (time.time() - arguments.started) * 1e3
    for _ in range(WARM_UP):
        predict()
    predict_ms = statistics.median(timed(predict) for _ in range(arguments.repeats))
    return {
        "onnxruntime": onnxruntime.__version__, "threads": arguments.threads,
        "predict_ms": round(predict_ms, 3), "first_ms": round(first_ms, 2),
        "peak_rss_mb": round(peak_rss_mb(), 1), "rss_before_mb": round(rss_before, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="the ONNX file")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--started", type=float, default=time.time(),
                        help="when this process was started, in seconds since the epoch")
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
