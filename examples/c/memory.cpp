/*
 * Adapts the bundled backbone to images in memory, in C++: bars that lie and bars that stand.
 *
 *   sh include/install.sh PREFIX
 *   export PKG_CONFIG_PATH=PREFIX/lib/pkgconfig
 *   c++ -std=c++17 examples/c/memory.cpp $(pkg-config --cflags --libs priorfit) -o memory
 *   LD_LIBRARY_PATH=PREFIX/lib ./memory models/demo [OPTIONS-JSON]
 */
#include <priorfit.hpp>

#include <cstdio>
#include <random>

namespace {

constexpr std::size_t SIDE = 16;

/* Images of one bar each, and whether it stands. */
struct Bars {
    std::vector<std::uint8_t> pixels;
    std::vector<std::uint32_t> labels;

    Bars(std::size_t count, unsigned seed) : pixels(count * SIDE * SIDE) {
        std::mt19937 random(seed);
        for (std::size_t i = 0; i < count; i++) {
            labels.push_back(i % 2);
            const std::size_t at = 2 + random() % (SIDE - 4);
            for (std::size_t j = 2; j < SIDE - 2; j++) {
                const std::size_t place = labels[i] ? j * SIDE + at : at * SIDE + j;
                pixels[i * SIDE * SIDE + place] = static_cast<std::uint8_t>(128 + random() % 128);
            }
        }
    }

    priorfit::Dataset dataset(bool labelled) const {
        static const char *const names[] = {"lying", "standing"};
        const priorfit_images images = {
            pixels.data(), pixels.size(), labels.size(), 1, SIDE, SIDE, PRIORFIT_ELEMENT_U8,
            PRIORFIT_LAYOUT_NHWC,
        };
        const priorfit_targets targets = {
            labels.data(), labels.size() * sizeof labels[0], names, 2, PRIORFIT_TARGET_TYPE_CLASSES,
        };
        return priorfit::Dataset(images, labelled ? &targets : nullptr);
    }
};

} // namespace

int main(int argc, char **argv) try {
    priorfit::check_version();
    const std::string files = argc > 1 ? argv[1] : "models/demo";
    const priorfit::Engine engine("cpu");
    const priorfit::Model model(files + "/backbone.onnx");
    const priorfit::Prior prior(files + "/prior.safetensors");
    const Bars known(24, 1), unknown(50, 2);

    const priorfit::Job job(
        engine, model, &prior, known.dataset(true), nullptr,
        argc > 2 ? argv[2] : R"({"settings": {"steps": 20}, "budget": {"low_priority": false}})",
        [](const priorfit_progress &progress) {
            std::fprintf(stderr, "phase %u: %u of %u\n", static_cast<unsigned>(progress.phase),
                         static_cast<unsigned>(progress.step),
                         static_cast<unsigned>(progress.steps));
            return true; // false asks the job to stop; what it throws harms nothing
        });
    while (!job.wait(std::chrono::milliseconds(50))) {
        // A program would draw its window here.
    }
    const priorfit::Adapted adapted = job.join();
    const auto predicted = adapted.posterior.predict(engine, unknown.dataset(false));

    std::size_t right = 0;
    double entropy = 0;
    for (std::size_t i = 0; i < unknown.labels.size(); i++) {
        const float *p = &predicted.mean[i * predicted.width];
        right += (p[1] > p[0]) == (unknown.labels[i] == 1);
        entropy += predicted.entropy[i];
    }
    std::printf("%zu of %zu are known as %s or %s, with %.2f nats of doubt\n", right,
                unknown.labels.size(), adapted.posterior.output_name(0).c_str(),
                adapted.posterior.output_name(1).c_str(),
                entropy / static_cast<double>(unknown.labels.size()));
    return 0;
} catch (const priorfit::Error &error) {
    std::fprintf(stderr, "status %d: %s\n", static_cast<int>(error.status()), error.what());
    return 1;
}
