/*
 * priorfit: adapt a pre-trained backbone on the user's machine.
 *
 * Written by cbindgen from src/capi/; a test compares the two. C++ has priorfit.hpp.
 *
 * Handles. Objects are known by handles, which look like pointers and are numbers: never read
 * through one, never compare it with an address. Each is freed by its own function, once; a freed
 * handle, or one of another kind, is INVALID_HANDLE wherever it is passed. Objects do not change,
 * but for jobs, so that they may be freed while work that was given them goes on.
 *
 * Errors. Every function that can fail returns a status. `error` may be null; if not, it becomes
 * null, or a new error that the host frees. Results become null where a call fails. Whatever
 * fails, what the host had before it has still.
 *
 * Memory. Nothing that a host passes is kept after the call, but for a callback's `user`. Results
 * go into buffers of the host. Texts are UTF-8 and end with a zero byte; a function that writes
 * one leaves its length without that byte in `length`, and fails with BUFFER_SIZE where it has not
 * that many bytes and one more; with a null buffer of capacity 0 it tells the length alone.
 * Pointers to what is written to must differ within a call.
 *
 * Threads. Every function may be called from any thread, and with the same handle from several at
 * once. None waits for a job but priorfit_job_wait and priorfit_job_join, which are refused in a
 * progress callback (WRONG_THREAD). Data that other threads write to must not be passed.
 *
 * Signals, environment and standard streams are left alone; a bug of the library is INTERNAL, with
 * what Rust says of it on the standard error stream.
 */

#ifndef PRIORFIT_H
#define PRIORFIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Version of this interface: it grows with every change that a compiled host would notice.
#define PRIORFIT_ABI_VERSION 1

// What a progress callback answers to go on. Any answer but this and PRIORFIT_STOP says that it
// failed: it is not called again.
#define PRIORFIT_GO_ON 0

// What a progress callback answers to ask for a stop, after the step in hand.
#define PRIORFIT_STOP 1

// What a call came to. Numbers keep their meaning; later versions may add some.
enum priorfit_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // It did what it says.
    PRIORFIT_STATUS_OK = 0,
    // A file or buffer is not what its format demands.
    PRIORFIT_STATUS_MALFORMED = 1,
    // A valid request that this version cannot carry out.
    PRIORFIT_STATUS_UNSUPPORTED = 2,
    // Two valid things that do not belong together, such as a prior and another backbone.
    PRIORFIT_STATUS_MISMATCH = 3,
    // An argument or setting is out of its range.
    PRIORFIT_STATUS_INVALID_ARGUMENT = 4,
    // Reading or writing failed in the operating system.
    PRIORFIT_STATUS_IO = 5,
    // A device failed or was lost.
    PRIORFIT_STATUS_DEVICE = 6,
    // Training produced a number that is not finite.
    PRIORFIT_STATUS_DIVERGED = 7,
    // The host asked for the work to stop.
    PRIORFIT_STATUS_CANCELLED = 8,
    // A bug of the library; the call changed nothing that the host has.
    PRIORFIT_STATUS_INTERNAL = 9,
    // A pointer or handle is null that must not be.
    PRIORFIT_STATUS_NULL_POINTER = 10,
    // A handle was freed before, is of another kind, or never was one.
    PRIORFIT_STATUS_INVALID_HANDLE = 11,
    // A buffer has another length than it must have.
    PRIORFIT_STATUS_BUFFER_SIZE = 12,
    // The call would wait for its own thread.
    PRIORFIT_STATUS_WRONG_THREAD = 13,
    // Somebody else is writing to the same place; later it may be free.
    PRIORFIT_STATUS_BUSY = 14,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum priorfit_status priorfit_status;
#else
typedef int32_t priorfit_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What is being done.
enum priorfit_run_phase
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Nothing yet that counts.
    PRIORFIT_RUN_PHASE_PREPARING = 0,
    // Computing the features of the examples; steps are examples.
    PRIORFIT_RUN_PHASE_FEATURES = 1,
    // Training the head alone.
    PRIORFIT_RUN_PHASE_PROBE = 2,
    // Training all weights.
    PRIORFIT_RUN_PHASE_TRAIN = 3,
    // Predicting held-out examples; steps are examples.
    PRIORFIT_RUN_PHASE_VALIDATE = 4,
    // Predicting, after training; steps are examples times draws.
    PRIORFIT_RUN_PHASE_PREDICT = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum priorfit_run_phase priorfit_run_phase;
#else
typedef uint32_t priorfit_run_phase;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What a job is at.
enum priorfit_job_state
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Making ready, or making steps.
    PRIORFIT_JOB_STATE_RUNNING = 0,
    // Held: the host paused it.
    PRIORFIT_JOB_STATE_PAUSED = 1,
    // Held: little is left of the battery's charge.
    PRIORFIT_JOB_STATE_BATTERY = 2,
    // Held: the machine must cool down.
    PRIORFIT_JOB_STATE_HEAT = 3,
    // Was asked to stop, and ends after the step in hand.
    PRIORFIT_JOB_STATE_STOPPING = 4,
    // Has ended: join it.
    PRIORFIT_JOB_STATE_ENDED = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum priorfit_job_state priorfit_job_state;
#else
typedef uint32_t priorfit_job_state;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Why a job stops before its last step.
enum priorfit_stop_cause
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // It does not.
    PRIORFIT_STOP_CAUSE_NONE = 0,
    // It was cancelled.
    PRIORFIT_STOP_CAUSE_CANCELLED = 1,
    // Its time was up.
    PRIORFIT_STOP_CAUSE_WALL_TIME = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum priorfit_stop_cause priorfit_stop_cause;
#else
typedef uint32_t priorfit_stop_cause;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What the numbers of images are.
enum priorfit_element
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Bytes, 0 to 255; the adaptation's options scale and normalise them.
    PRIORFIT_ELEMENT_U8 = 0,
    // Numbers of 32 bits that are scaled already; the options normalise them.
    PRIORFIT_ELEMENT_F32 = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum priorfit_element priorfit_element;
#else
typedef uint32_t priorfit_element;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// The order of the numbers of images; the last letter varies fastest.
enum priorfit_layout
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Image, channel, row, column.
    PRIORFIT_LAYOUT_NCHW = 0,
    // Image, row, column, channel.
    PRIORFIT_LAYOUT_NHWC = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum priorfit_layout priorfit_layout;
#else
typedef uint32_t priorfit_layout;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What the targets of examples are.
enum priorfit_target_type
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // A class each, counted from 0: uint32_t [count].
    PRIORFIT_TARGET_TYPE_CLASSES = 0,
    // 1 for each label that an example has, else 0: float [count][names].
    PRIORFIT_TARGET_TYPE_LABELS = 1,
    // Numbers: float [count][names].
    PRIORFIT_TARGET_TYPE_NUMBERS = 2,
    // A class for each pixel, 255 for none: uint8_t [count][height][width].
    PRIORFIT_TARGET_TYPE_MASKS = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum priorfit_target_type priorfit_target_type;
#else
typedef uint32_t priorfit_target_type;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What feeds a machine.
enum priorfit_power
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // The host does not know.
    PRIORFIT_POWER_UNKNOWN = 0,
    // The mains.
    PRIORFIT_POWER_MAINS = 1,
    // Its battery.
    PRIORFIT_POWER_BATTERY = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum priorfit_power priorfit_power;
#else
typedef uint32_t priorfit_power;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// How hot a machine is, in the four levels that operating systems tell.
enum priorfit_heat
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // The host does not know.
    PRIORFIT_HEAT_UNKNOWN = 0,
    // As it should be.
    PRIORFIT_HEAT_NOMINAL = 1,
    // Warm; fans may be heard.
    PRIORFIT_HEAT_FAIR = 2,
    // Its speed suffers.
    PRIORFIT_HEAT_SERIOUS = 3,
    // It must cool down.
    PRIORFIT_HEAT_CRITICAL = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum priorfit_heat priorfit_heat;
#else
typedef uint32_t priorfit_heat;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Whether anybody is using a machine.
enum priorfit_presence
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // The host does not know.
    PRIORFIT_PRESENCE_UNKNOWN = 0,
    // Somebody is.
    PRIORFIT_PRESENCE_USED = 1,
    // Nobody is.
    PRIORFIT_PRESENCE_IDLE = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum priorfit_presence priorfit_presence;
#else
typedef uint32_t priorfit_presence;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Examples: images, and what is known of them.
typedef struct priorfit_dataset priorfit_dataset;

// Where work is done: threads of the processor, and perhaps a GPU.
typedef struct priorfit_engine priorfit_engine;

// A failed call's status and message; free it with priorfit_error_free.
typedef struct priorfit_error priorfit_error;

// An adaptation in the background.
typedef struct priorfit_job priorfit_job;

// A backbone, as its ONNX file has it.
typedef struct priorfit_model priorfit_model;

// An adapted network: draws of its weights with everything needed to predict.
typedef struct priorfit_posterior priorfit_posterior;

// A Gaussian over a backbone's weights.
typedef struct priorfit_prior priorfit_prior;

// Images in memory, copied by the call that is given them.
typedef struct priorfit_images {
    // The numbers; they need not be aligned.
    const void *pixels;
    // Their length in bytes: count * channels * height * width times 1 or 4.
    size_t bytes;
    // Number of images.
    size_t count;
    // Channels of each: 1, 3 or 4, or as many as the backbone reads.
    size_t channels;
    // Rows of each.
    size_t height;
    // Columns of each.
    size_t width;
    // One of priorfit_element.
    uint32_t element;
    // One of priorfit_layout.
    uint32_t layout;
} priorfit_images;

// What is known of images in memory, copied by the call that is given them.
typedef struct priorfit_targets {
    // The values, as `kind` says; they need not be aligned.
    const void *values;
    // Their length in bytes.
    size_t bytes;
    // The names of the classes, labels or numbers; null where they are called by their number.
    const char *const *names;
    // How many classes, labels or numbers there are.
    size_t name_count;
    // One of priorfit_target_type.
    uint32_t kind;
} priorfit_targets;

// How far something has come.
typedef struct priorfit_progress {
    // Counts the changes; a later report has a larger number.
    uint64_t number;
    // Steps of this phase that are done.
    uint64_t step;
    // Steps of this phase in all.
    uint64_t steps;
    // Mean loss of the last step's batch; not a number where there is none.
    float loss;
    // Penalty of the prior before the last step; not a number where there is none.
    float penalty;
    // What is being done.
    priorfit_run_phase phase;
    // What the job is at; of a prediction, that it runs.
    priorfit_job_state state;
    // Why it stops early, if it does.
    priorfit_stop_cause stopped_by;
    // Warnings so far; priorfit_job_describe has their texts.
    uint32_t warnings;
} priorfit_progress;

// Whom to tell of progress, or nobody where `call` is null.
//
// A job calls from a thread of its own, never two calls at once, and always with the newest state,
// so that a slow host misses some; a prediction calls from the thread that asked for it. `call`
// may use any function but priorfit_job_wait and priorfit_job_join, which would wait where they
// are told from. An exception that leaves it ends the process: catch them, and answer that it
// failed. One that never returns keeps its thread, and nothing else.
//
// `release`, unless it is null, is called once when `call` is not going to be called again, also
// where the function that was given the callback fails. Only then may what `user` points to go.
typedef struct priorfit_callback {
    // Is told how far it has come, and answers PRIORFIT_GO_ON or PRIORFIT_STOP.
    int32_t (*call)(const struct priorfit_progress *report, void *user);
    // Is passed to both functions.
    void *user;
    // Is told that `user` is not needed any more.
    void (*release)(void *user);
} priorfit_callback;

// What an adaptation is made from. All handles may be freed once the job has started.
typedef struct priorfit_adaptation {
    // Where it computes. The job's threads are its own, as many as the engine has.
    const struct priorfit_engine *engine;
    // The backbone; a classifier at its end is cut off.
    const struct priorfit_model *model;
    // The prior over its weights, or null.
    const struct priorfit_prior *prior;
    // The examples, with targets.
    const struct priorfit_dataset *train;
    // Examples that are predicted after each epoch, or null.
    const struct priorfit_dataset *validation;
    // Options in JSON, or null: what differs from priorfit_default_options, such as
    // {"settings": {"steps": 100}, "budget": {"threads": 1}}. Without a prior the setting "prior"
    // is "isotropic" unless said otherwise.
    const char *options;
    // Whom to tell of progress; nobody where its members are null.
    struct priorfit_callback progress;
} priorfit_adaptation;

// The state of a machine, as far as its host knows it; all zeros say that nothing is known.
typedef struct priorfit_conditions {
    // One of priorfit_power.
    uint32_t power;
    // The share of the battery's charge that is left, 0 to 1. Of other power it says nothing.
    float charge;
    // One of priorfit_heat.
    uint32_t heat;
    // One of priorfit_presence.
    uint32_t presence;
    // Seconds that the host's last frames took, about.
    float frame_seconds;
    // Seconds that a frame may take; 0 where the host draws none.
    float frame_target;
} priorfit_conditions;

// Where predictions go, example after example. A buffer that is null and has length 0 is not
// wanted; any other must have exactly the length given here.
typedef struct priorfit_predictions {
    // Mean over the draws: probabilities, or numbers in the data's units. Its length is that of
    // priorfit_posterior_output_len for each example.
    float *mean;
    // Its length.
    size_t mean_len;
    // Variance between the draws, as long as `mean`.
    float *variance;
    // Its length.
    size_t variance_len;
    // Entropy of each example's prediction, in nats: a number for each example.
    float *entropy;
    // Its length.
    size_t entropy_len;
    // The part of the entropy that the draws' disagreement has in it: a number for each example.
    float *mutual_information;
    // Its length.
    size_t mutual_information_len;
} priorfit_predictions;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the interface that the library was built with. Compare it with
// PRIORFIT_ABI_VERSION, which the host was compiled with, before anything else.
uint32_t priorfit_abi_version(void);

// The version of the library, such as "1.2.3". It lives as long as the library.
const char *priorfit_version(void);

// The status that the failed call returned; INVALID_HANDLE if this is no error.
priorfit_status priorfit_error_status(const struct priorfit_error *error);

// What failed, and what can be done about it: one line in UTF-8 for people. It lives until the
// error is freed; never null.
const char *priorfit_error_message(const struct priorfit_error *error);

// Frees an error. Null is passed over.
priorfit_status priorfit_error_free(struct priorfit_error *error);

// Opens an engine. `device` is "auto" (the first hardware GPU, or else the processor), "cpu",
// "gpu" (one in software too), or a part of a GPU's name; `threads` is how many of the processor
// to use, or 0 for all.
priorfit_status priorfit_engine_open(const char *device,
                                     uint32_t threads,
                                     struct priorfit_engine **engine,
                                     struct priorfit_error **error);

// Frees an engine; work that uses it finishes with it. Null is passed over.
priorfit_status priorfit_engine_free(struct priorfit_engine *engine, struct priorfit_error **error);

// Loads a backbone from an ONNX file, with the external data beside it.
priorfit_status priorfit_model_load(const char *file,
                                    struct priorfit_model **model,
                                    struct priorfit_error **error);

// What is in a backbone, as JSON: inputs, outputs, numbers of parameters, operators, notes, and
// the fingerprint of its weights. See the head of this file for `buffer`.
priorfit_status priorfit_model_describe(const struct priorfit_model *model,
                                        char *buffer,
                                        size_t capacity,
                                        size_t *length,
                                        struct priorfit_error **error);

// Frees a backbone; work that uses it finishes with it. Null is passed over.
priorfit_status priorfit_model_free(struct priorfit_model *model, struct priorfit_error **error);

// Loads a prior from the file that `priorfit prior` wrote.
priorfit_status priorfit_prior_load(const char *file,
                                    struct priorfit_prior **prior,
                                    struct priorfit_error **error);

// What is known of a prior besides its numbers, as JSON. See the head of this file for `buffer`.
priorfit_status priorfit_prior_describe(const struct priorfit_prior *prior,
                                        char *buffer,
                                        size_t capacity,
                                        size_t *length,
                                        struct priorfit_error **error);

// Frees a prior; work that uses it finishes with it. Null is passed over.
priorfit_status priorfit_prior_free(struct priorfit_prior *prior, struct priorfit_error **error);

// All options of an adaptation with their defaults, as JSON; the options of priorfit_adaptation
// have the same form. See the head of this file for `buffer`.
priorfit_status priorfit_default_options(char *buffer,
                                         size_t capacity,
                                         size_t *length,
                                         struct priorfit_error **error);

// Opens a folder with a subfolder of PNG or JPEG images for each class, one with labels.csv, one
// with images and masks, one of images alone, or an .npz file with x and y. Images of folders are
// read when they are needed.
priorfit_status priorfit_dataset_open(const char *source,
                                      struct priorfit_dataset **dataset,
                                      struct priorfit_error **error);

// Makes a data set of images in memory. `targets` may be null: such a data set can be predicted.
priorfit_status priorfit_dataset_new(const struct priorfit_images *images,
                                     const struct priorfit_targets *targets,
                                     struct priorfit_dataset **dataset,
                                     struct priorfit_error **error);

// Number of examples.
priorfit_status priorfit_dataset_len(const struct priorfit_dataset *dataset,
                                     size_t *len,
                                     struct priorfit_error **error);

// What is in a data set, as JSON: the number of examples, what their targets are, and the names of
// the classes, labels or numbers. See the head of this file for `buffer`.
priorfit_status priorfit_dataset_describe(const struct priorfit_dataset *dataset,
                                          char *buffer,
                                          size_t capacity,
                                          size_t *length,
                                          struct priorfit_error **error);

// Writes the class of each example to `labels`, whose length is the number of examples.
priorfit_status priorfit_dataset_labels(const struct priorfit_dataset *dataset,
                                        uint32_t *labels,
                                        size_t len,
                                        struct priorfit_error **error);

// Splits classes at random into `per_class` examples of each, or all where there are fewer, and
// the rest. `rest` may be null.
priorfit_status priorfit_dataset_few(const struct priorfit_dataset *dataset,
                                     uint64_t seed,
                                     size_t per_class,
                                     struct priorfit_dataset **few,
                                     struct priorfit_dataset **rest,
                                     struct priorfit_error **error);

// Frees a data set; work that uses it finishes with it. Null is passed over.
priorfit_status priorfit_dataset_free(struct priorfit_dataset *dataset,
                                      struct priorfit_error **error);

// Starts an adaptation and returns. Measuring the mean and deviation of the images, if the options
// do not give them, and checks of what belongs together come first; everything else, and what
// fails there, is the job's.
priorfit_status priorfit_job_start(const struct priorfit_adaptation *adaptation,
                                   struct priorfit_job **job,
                                   struct priorfit_error **error);

// How a job stands now. Never waits.
priorfit_status priorfit_job_poll(const struct priorfit_job *job,
                                  struct priorfit_progress *report,
                                  struct priorfit_error **error);

// What is known of a job, as JSON: how it stands, with its warnings, and once it is joined how it
// ended, what cross-validation found, its history and memory. See the head of this file for
// `buffer`.
priorfit_status priorfit_job_describe(const struct priorfit_job *job,
                                      char *buffer,
                                      size_t capacity,
                                      size_t *length,
                                      struct priorfit_error **error);

// Lets a job make no more steps after the one in hand, until it is resumed. Never waits.
priorfit_status priorfit_job_pause(const struct priorfit_job *job, struct priorfit_error **error);

// Lets a paused job go on. Never waits.
priorfit_status priorfit_job_resume(const struct priorfit_job *job, struct priorfit_error **error);

// Asks a job to stop, paused or not: it ends after the step in hand, and joining it gives its last
// good state. Never waits.
priorfit_status priorfit_job_cancel(const struct priorfit_job *job, struct priorfit_error **error);

// Waits until a job has ended, or for so many milliseconds at most; `ended` tells which. Not in a
// progress callback.
priorfit_status priorfit_job_wait(const struct priorfit_job *job,
                                  uint32_t milliseconds,
                                  bool *ended,
                                  struct priorfit_error **error);

// Waits until a job has ended and gives what it made, once: the adapted network, and in `probe`,
// unless that is null, the linear probe that training began with. One that was stopped gives its
// last good state, or CANCELLED where it had none yet. What failed in the job fails here. The job
// is still to be freed. Not in a progress callback.
priorfit_status priorfit_job_join(const struct priorfit_job *job,
                                  struct priorfit_posterior **adapted,
                                  struct priorfit_posterior **probe,
                                  struct priorfit_error **error);

// Frees a job. One that has not ended is cancelled, without waiting, and what it would have made
// is lost; CANCELLED says so, and the job is freed all the same. Null is passed over.
priorfit_status priorfit_job_free(struct priorfit_job *job, struct priorfit_error **error);

// Tells a job how the machine is now, in place of what it was told before; it counts from the next
// step on. On a battery, in heat and while frames are late the job computes less; with little
// charge, or where the machine must cool down, it is held. Where nobody uses the machine the duty
// cycle of its budget does not count. Nothing is asked of the host: it tells when it learns
// something, from any thread. Never waits.
priorfit_status priorfit_job_set_conditions(const struct priorfit_job *job,
                                            const struct priorfit_conditions *conditions,
                                            struct priorfit_error **error);

// The user's own will: whether a job goes on at full speed whatever the conditions and its duty
// cycle say. A pause still holds it. Never waits.
priorfit_status priorfit_job_run_regardless(const struct priorfit_job *job,
                                            bool regardless,
                                            struct priorfit_error **error);

// Loads an adapted network from its folder.
priorfit_status priorfit_posterior_load(const char *folder,
                                        struct priorfit_posterior **posterior,
                                        struct priorfit_error **error);

// Writes an adapted network into a folder, which is made if it does not exist. A posterior that
// was there before stays until the new one is complete.
priorfit_status priorfit_posterior_save(const struct priorfit_posterior *posterior,
                                        const char *folder,
                                        struct priorfit_error **error);

// Writes an adapted network as an ONNX file: the graph, names and metadata of the backbone's file,
// with the mean of the adapted weights and the new head, for any engine that reads ONNX.
priorfit_status priorfit_posterior_export(const struct priorfit_posterior *posterior,
                                          const char *file,
                                          struct priorfit_error **error);

// What is known of an adapted network besides its weights, as JSON: its task with the names of the
// outputs, preprocessing, temperature, calibration, and how it came about. See the head of this
// file for `buffer`.
priorfit_status priorfit_posterior_describe(const struct priorfit_posterior *posterior,
                                            char *buffer,
                                            size_t capacity,
                                            size_t *length,
                                            struct priorfit_error **error);

// How many numbers are predicted for each example: one for each class, label or number; of masks
// one for each class of each pixel of the network's input, [height][width][classes].
priorfit_status priorfit_posterior_output_len(const struct priorfit_posterior *posterior,
                                              size_t *len,
                                              struct priorfit_error **error);

// The name of an output: of a class, a label or a number. See the head of this file for `buffer`.
priorfit_status priorfit_posterior_output_name(const struct priorfit_posterior *posterior,
                                               size_t index,
                                               char *buffer,
                                               size_t capacity,
                                               size_t *length,
                                               struct priorfit_error **error);

// Predicts all examples of `dataset` on `engine` and returns when it is done. `progress` may be
// null. Where it fails or is stopped, the buffers hold the predictions of some examples only.
priorfit_status priorfit_posterior_predict(const struct priorfit_posterior *posterior,
                                           const struct priorfit_engine *engine,
                                           const struct priorfit_dataset *dataset,
                                           const struct priorfit_predictions *predictions,
                                           const struct priorfit_callback *progress,
                                           struct priorfit_error **error);

// Frees an adapted network; work that uses it finishes with it. Null is passed over.
priorfit_status priorfit_posterior_free(struct priorfit_posterior *posterior,
                                        struct priorfit_error **error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* PRIORFIT_H */
