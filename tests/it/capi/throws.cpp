// Exceptions of a host stay with it: `throws FILES` prints what is not as it should be.

#include <priorfit.hpp>

#include <cstdio>
#include <thread>

namespace {

int wrong = 0;

void that(bool fact, const char *what) {
    if (!fact) {
        std::printf("not so: %s\n", what);
        wrong = 1;
    }
}

const char *const QUICK =
    R"({"settings": {"steps": 4, "strength": 1.0, "head_variance": 1.0, "gate": false,
        "probe_steps": 20}, "input": {"normalise": "none"},
        "budget": {"threads": 1, "low_priority": false}})";

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    const std::string files = argv[1];
    priorfit::check_version();
    const priorfit::Engine engine("cpu", 1);
    const priorfit::Model model(files + "/backbone.onnx");
    const priorfit::Prior prior(files + "/prior.safetensors");
    const priorfit::Dataset train = priorfit::Dataset(files + "/digits.npz").few(7, 1).first;

    // A callback that throws is noted, and the job goes on to its end.
    priorfit::Job job(engine, model, &prior, train, &train, QUICK,
                      [](const priorfit_progress &) -> bool { throw 42; });
    priorfit::Adapted adapted = job.join();
    while (!job.callback_error()) { // the report may come after the end
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    try {
        std::rethrow_exception(job.callback_error());
    } catch (int thrown) {
        that(thrown == 42, "the callback's own exception comes back");
    }
    that(job.describe().find("\"completed\"") != std::string::npos, "the job was completed");

    // Of a prediction it ends the call.
    try {
        adapted.posterior.predict(engine, train, [](const priorfit_progress &) -> bool {
            throw std::runtime_error("mine");
        });
        that(false, "a prediction stops where its callback throws");
    } catch (const std::runtime_error &error) {
        that(std::string(error.what()) == "mine", "the callback's own exception leaves predict");
    }
    const auto predicted = adapted.posterior.predict(engine, train);
    that(predicted.mean.size() == train.labels().size() * predicted.width, "a prediction works");

    // An error is an exception with its status, and objects can be moved.
    try {
        priorfit::Model nothing(files + "/nothing.onnx");
        that(false, "a missing file is an error");
    } catch (const priorfit::Error &error) {
        that(error.status() == PRIORFIT_STATUS_IO, "a missing file is an error of reading");
        that(std::string(error.what()).find("nothing.onnx") != std::string::npos, "it is named");
    }
    const priorfit::Posterior moved = std::move(adapted.probe);
    that(moved.output_len() == 10, "a moved posterior is the same");

    // What a machine lacks holds a job; its user may not care.
    {
        const priorfit::Job held(engine, model, &prior, train, nullptr,
                                 R"({"settings": {"steps": 100000000}})");
        const auto reaches = [&](priorfit_job_state state) {
            while (held.poll().state != state) {
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            }
        };
        priorfit_conditions now = {};
        now.heat = PRIORFIT_HEAT_CRITICAL;
        held.set_conditions(now);
        reaches(PRIORFIT_JOB_STATE_HEAT);
        held.run_regardless(true);
        reaches(PRIORFIT_JOB_STATE_RUNNING);
        now.presence = 77;
        try {
            held.set_conditions(now);
            that(false, "what the header does not know is refused");
        } catch (const priorfit::Error &error) {
            that(error.status() == PRIORFIT_STATUS_INVALID_ARGUMENT, "it is a bad argument");
        }
    }

    // A job that is destroyed is cancelled, and nobody waits for it.
    priorfit::Job(engine, model, &prior, train, nullptr, R"({"settings": {"steps": 100000000}})");
    return wrong;
}
