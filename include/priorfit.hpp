/*
 * priorfit for C++17: the functions of priorfit.h with objects that free themselves, and errors as
 * exceptions.
 *
 * Exceptions stay on this side: one that a progress callback throws is caught before it reaches the
 * library. The job goes on without it and Job::callback_error() has it; a prediction stops, and
 * throws it. What priorfit.h says of threads and memory holds here too.
 */
#ifndef PRIORFIT_HPP
#define PRIORFIT_HPP

#include "priorfit.h"

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace priorfit {

/* A call that failed. */
class Error : public std::runtime_error {
public:
    Error(priorfit_status status, const std::string &message)
        : std::runtime_error(message), status_(status) {}
    priorfit_status status() const noexcept { return status_; }

private:
    priorfit_status status_;
};

/* Is told of progress, and answers whether to go on. */
using Progress = std::function<bool(const priorfit_progress &)>;

namespace detail {

/* Calls `f` with a place for its error, and throws what it leaves there. */
template <class F> void call(F &&f) {
    priorfit_error *error = nullptr;
    const priorfit_status status = f(&error);
    if (status == PRIORFIT_STATUS_OK) return;
    const std::string message = priorfit_error_message(error);
    priorfit_error_free(error);
    throw Error(status, message);
}

/* A handle that is freed with its object; it can be moved. */
template <class T, priorfit_status (*Free)(T *, priorfit_error **)> class Handle {
public:
    Handle() noexcept = default;
    explicit Handle(T *handle) noexcept : handle_(handle) {}
    Handle(Handle &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Handle &operator=(Handle &&other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Handle() { Free(handle_, nullptr); }
    T *get() const noexcept { return handle_; }

private:
    T *handle_ = nullptr;
};

/* A new handle, which `f` leaves in its first argument. */
template <class T, class F> T *make(F &&f) {
    T *handle = nullptr;
    call([&](priorfit_error **error) { return f(&handle, error); });
    return handle;
}

/* A text that `f` writes to a buffer, however long it is by then. */
template <class F> std::string text(F &&f) {
    std::string text;
    for (;;) {
        std::size_t length = 0;
        priorfit_error *error = nullptr;
        text.resize(text.capacity());
        const priorfit_status status = f(&text[0], text.size(), &length, &error);
        if (status == PRIORFIT_STATUS_BUFFER_SIZE) {
            priorfit_error_free(error);
            text.reserve(length + 1);
            continue;
        }
        call([&](priorfit_error **out) {
            *out = error;
            return status;
        });
        text.resize(length);
        return text;
    }
}

/* A callback, and what it threw. */
struct Listener {
    Progress progress;
    std::mutex mutex;
    std::exception_ptr thrown;

    std::exception_ptr error() {
        std::lock_guard<std::mutex> lock(mutex);
        return thrown;
    }

    static std::int32_t call(const priorfit_progress *progress, void *user) noexcept {
        constexpr std::int32_t failed = 2;
        const auto &listener = *static_cast<std::shared_ptr<Listener> *>(user);
        try {
            return listener->progress(*progress) ? PRIORFIT_GO_ON : PRIORFIT_STOP;
        } catch (...) {
            std::lock_guard<std::mutex> lock(listener->mutex);
            listener->thrown = std::current_exception();
            return failed;
        }
    }

    static void release(void *user) noexcept {
        delete static_cast<std::shared_ptr<Listener> *>(user);
    }

    /* What the library is given: it owns a share of the listener until it releases it. */
    static priorfit_callback share(const std::shared_ptr<Listener> &listener) {
        if (!listener->progress) return {nullptr, nullptr, nullptr};
        return {call, new std::shared_ptr<Listener>(listener), release};
    }
};

} // namespace detail

/* Where work is done. */
class Engine {
public:
    explicit Engine(const std::string &device = "auto", std::uint32_t threads = 0)
        : handle_(detail::make<priorfit_engine>([&](auto out, auto error) {
              return priorfit_engine_open(device.c_str(), threads, out, error);
          })) {}
    priorfit_engine *get() const noexcept { return handle_.get(); }

private:
    detail::Handle<priorfit_engine, priorfit_engine_free> handle_;
};

/* A backbone. */
class Model {
public:
    explicit Model(const std::string &file)
        : handle_(detail::make<priorfit_model>([&](auto out, auto error) {
              return priorfit_model_load(file.c_str(), out, error);
          })) {}
    std::string describe() const {
        return detail::text([&](auto... to) { return priorfit_model_describe(get(), to...); });
    }
    priorfit_model *get() const noexcept { return handle_.get(); }

private:
    detail::Handle<priorfit_model, priorfit_model_free> handle_;
};

/* A prior over a backbone's weights. */
class Prior {
public:
    explicit Prior(const std::string &file)
        : handle_(detail::make<priorfit_prior>([&](auto out, auto error) {
              return priorfit_prior_load(file.c_str(), out, error);
          })) {}
    std::string describe() const {
        return detail::text([&](auto... to) { return priorfit_prior_describe(get(), to...); });
    }
    priorfit_prior *get() const noexcept { return handle_.get(); }

private:
    detail::Handle<priorfit_prior, priorfit_prior_free> handle_;
};

/* Examples. */
class Dataset {
public:
    /* A folder or an .npz file. */
    explicit Dataset(const std::string &source)
        : Dataset(detail::make<priorfit_dataset>([&](auto out, auto error) {
              return priorfit_dataset_open(source.c_str(), out, error);
          })) {}
    /* Images in memory, which are copied; without targets they can be predicted. */
    explicit Dataset(const priorfit_images &images, const priorfit_targets *targets = nullptr)
        : Dataset(detail::make<priorfit_dataset>([&](auto out, auto error) {
              return priorfit_dataset_new(&images, targets, out, error);
          })) {}
    std::size_t size() const {
        std::size_t len = 0;
        detail::call([&](auto error) { return priorfit_dataset_len(get(), &len, error); });
        return len;
    }
    std::string describe() const {
        return detail::text([&](auto... to) { return priorfit_dataset_describe(get(), to...); });
    }
    /* The class of each example. */
    std::vector<std::uint32_t> labels() const {
        std::vector<std::uint32_t> labels(size());
        detail::call([&](auto error) {
            return priorfit_dataset_labels(get(), labels.data(), labels.size(), error);
        });
        return labels;
    }
    /* So many examples of each class, and the rest. */
    std::pair<Dataset, Dataset> few(std::uint64_t seed, std::size_t per_class) const {
        priorfit_dataset *rest = nullptr;
        priorfit_dataset *some = detail::make<priorfit_dataset>([&](auto out, auto error) {
            return priorfit_dataset_few(get(), seed, per_class, out, &rest, error);
        });
        return {Dataset(some), Dataset(rest)};
    }
    priorfit_dataset *get() const noexcept { return handle_.get(); }

private:
    explicit Dataset(priorfit_dataset *handle) : handle_(handle) {}
    detail::Handle<priorfit_dataset, priorfit_dataset_free> handle_;
};

/* What is predicted, example after example; see priorfit_predictions. */
struct Predictions {
    /* Numbers for each example. */
    std::size_t width = 0;
    std::vector<float> mean, variance, entropy, mutual_information;
};

/* An adapted network. */
class Posterior {
public:
    /* Loads the folder that save() wrote. */
    explicit Posterior(const std::string &folder)
        : Posterior(detail::make<priorfit_posterior>([&](auto out, auto error) {
              return priorfit_posterior_load(folder.c_str(), out, error);
          })) {}
    /* Takes a handle over. */
    explicit Posterior(priorfit_posterior *handle) noexcept : handle_(handle) {}
    void save(const std::string &folder) const {
        detail::call(
            [&](auto error) { return priorfit_posterior_save(get(), folder.c_str(), error); });
    }
    /* Writes an ONNX file with the mean of the adapted weights and the new head. */
    void export_onnx(const std::string &file) const {
        detail::call(
            [&](auto error) { return priorfit_posterior_export(get(), file.c_str(), error); });
    }
    std::string describe() const {
        return detail::text([&](auto... to) { return priorfit_posterior_describe(get(), to...); });
    }
    std::size_t output_len() const {
        std::size_t len = 0;
        detail::call([&](auto error) { return priorfit_posterior_output_len(get(), &len, error); });
        return len;
    }
    std::string output_name(std::size_t index) const {
        return detail::text(
            [&](auto... to) { return priorfit_posterior_output_name(get(), index, to...); });
    }
    Predictions predict(const Engine &engine, const Dataset &data, Progress progress = {}) const {
        const std::size_t examples = data.size();
        Predictions p;
        p.width = output_len();
        for (auto *numbers : {&p.mean, &p.variance}) numbers->resize(examples * p.width);
        for (auto *numbers : {&p.entropy, &p.mutual_information}) numbers->resize(examples);
        const priorfit_predictions into = {
            p.mean.data(), p.mean.size(), p.variance.data(), p.variance.size(),
            p.entropy.data(), p.entropy.size(),
            p.mutual_information.data(), p.mutual_information.size(),
        };
        auto listener = std::make_shared<detail::Listener>();
        listener->progress = std::move(progress);
        const priorfit_callback callback = detail::Listener::share(listener);
        try {
            detail::call([&](auto error) {
                return priorfit_posterior_predict(get(), engine.get(), data.get(), &into,
                                                  &callback, error);
            });
        } catch (const Error &) {
            if (const auto thrown = listener->error()) std::rethrow_exception(thrown);
            throw;
        }
        return p;
    }
    priorfit_posterior *get() const noexcept { return handle_.get(); }

private:
    detail::Handle<priorfit_posterior, priorfit_posterior_free> handle_;
};

/* What an adaptation made. */
struct Adapted {
    Posterior posterior;
    /* The linear probe that training began with. */
    Posterior probe;
};

/* An adaptation in the background; destroying it cancels it, without waiting. */
class Job {
public:
    /* Starts it. `prior` and `validation` may be null, `options` is JSON as priorfit_adaptation
     * has it. */
    Job(const Engine &engine, const Model &model, const Prior *prior, const Dataset &train,
        const Dataset *validation = nullptr, const std::string &options = "{}",
        Progress progress = {})
        : listener_(std::make_shared<detail::Listener>()) {
        listener_->progress = std::move(progress);
        priorfit_adaptation adaptation = {};
        adaptation.engine = engine.get();
        adaptation.model = model.get();
        adaptation.prior = prior ? prior->get() : nullptr;
        adaptation.train = train.get();
        adaptation.validation = validation ? validation->get() : nullptr;
        adaptation.options = options.c_str();
        adaptation.progress = detail::Listener::share(listener_);
        handle_ = Handle(detail::make<priorfit_job>([&](auto out, auto error) {
            return priorfit_job_start(&adaptation, out, error);
        }));
    }
    priorfit_progress poll() const {
        priorfit_progress report = {};
        detail::call([&](auto error) { return priorfit_job_poll(get(), &report, error); });
        return report;
    }
    void pause() const {
        detail::call([&](auto error) { return priorfit_job_pause(get(), error); });
    }
    void resume() const {
        detail::call([&](auto error) { return priorfit_job_resume(get(), error); });
    }
    void cancel() const {
        detail::call([&](auto error) { return priorfit_job_cancel(get(), error); });
    }
    /* Tells how the machine is now; what is zero is not known. */
    void set_conditions(const priorfit_conditions &conditions) const {
        detail::call([&](auto error) {
            return priorfit_job_set_conditions(get(), &conditions, error);
        });
    }
    /* The user's own will against conditions and duty cycle. */
    void run_regardless(bool regardless) const {
        detail::call([&](auto error) {
            return priorfit_job_run_regardless(get(), regardless, error);
        });
    }
    /* Waits for its end, or for so long at most; whether it has ended. */
    bool wait(std::chrono::milliseconds time) const {
        bool ended = false;
        const auto milliseconds = static_cast<std::uint32_t>(time.count());
        detail::call([&](auto error) {
            return priorfit_job_wait(get(), milliseconds, &ended, error);
        });
        return ended;
    }
    /* Waits for its end and takes what it made, once. */
    Adapted join() const {
        priorfit_posterior *probe = nullptr;
        priorfit_posterior *adapted = detail::make<priorfit_posterior>([&](auto out, auto error) {
            return priorfit_job_join(get(), out, &probe, error);
        });
        return {Posterior(adapted), Posterior(probe)};
    }
    /* What the progress callback threw, if it did; it was not called again. */
    std::exception_ptr callback_error() const { return listener_->error(); }
    std::string describe() const {
        return detail::text([&](auto... to) { return priorfit_job_describe(get(), to...); });
    }
    priorfit_job *get() const noexcept { return handle_.get(); }

private:
    using Handle = detail::Handle<priorfit_job, priorfit_job_free>;
    std::shared_ptr<detail::Listener> listener_;
    Handle handle_;
};

/* Throws where the library has another interface than this header; call it before all else. */
inline void check_version() {
    if (priorfit_abi_version() != PRIORFIT_ABI_VERSION) {
        throw Error(PRIORFIT_STATUS_UNSUPPORTED, "the library has another interface");
    }
}

} // namespace priorfit

#endif /* PRIORFIT_HPP */
