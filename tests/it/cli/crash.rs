//! Processes that are killed, run out of disk, or meet another one, and what is left.
//!
//! Moments are counted, not drawn: a failure names the run that repeats it, as far as a machine's
//! timing repeats. More of them: `PRIORFIT_KILLS=300 cargo test --release --test it kill`.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

use priorfit::data::{Dataset, Preprocess};
use priorfit::rng::{Key, Sequence, Stream};
use priorfit::threads::Threads;

use super::*;

/// Kills of all scenarios together.
const KILLS: usize = 16;
/// Longer than any run takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// The scenarios: cross-validation with each way of making draws.
const SCENARIOS: [&[&str]; 4] = [
    &["--steps", "16"],
    &["--no-gate", "--steps", "12", "--posterior", "sghmc", "--chains", "2", "--draws", "4"],
    &["--no-gate", "--steps", "12", "--posterior", "swag", "--draws", "3"],
    &["--no-gate", "--steps", "10", "--posterior", "ensemble", "--draws", "3"],
];

/// A few of the bundled digits, and a result's folder.
pub(super) struct Place {
    pub(super) folder: TempDir,
    pub(super) train: PathBuf,
    pub(super) val: PathBuf,
}

impl Place {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [train, val] = ["train.npz", "val.npz"].map(|name| folder.path().join(name));
        let digits = Dataset::open(&repository("models/demo/digits.npz")).expect("the digits");
        let (few, rest) = digits.few(3, 3).expect("enough of each class");
        store(&train, &few);
        store(&val, &rest.subset(&(0..20).collect::<Vec<_>>()).expect("a subset"));
        Place { folder, train, val }
    }

    pub(super) fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A run of the program into `out`.
    pub(super) fn command(&self, out: &str, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_priorfit"));
        command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
        command.args([
            "adapt",
            "--backbone",
            &file("models/demo/backbone.onnx"),
            "--device",
            "cpu",
        ]);
        command.args(["--prior", &file("models/demo/prior.safetensors")]);
        command.args(["--train", text(&self.train), "--val", text(&self.val)]);
        command.args(["--out", text(&self.out(out)), "--threads", "2", "--batch", "8"]);
        command.args(["--quiet", "--json"]).args(options);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The files of a run that nobody disturbs, and how long the shorter of two took.
    fn undisturbed(&self, options: &[&str]) -> (BTreeMap<PathBuf, Vec<u8>>, Duration) {
        let runs = [0, 1].map(|_| {
            let started = Instant::now();
            let mut command = self.command("whole", &[options, &["--no-checkpoints"]].concat());
            ended_well(&command.output().expect("the program starts"));
            let took = started.elapsed();
            let files = contents(&self.out("whole"));
            fs::remove_dir_all(self.out("whole")).expect("removed");
            (files, took)
        });
        let [(files, first), (again, second)] = runs;
        assert!(by_name(&files) == by_name(&again), "a run repeats bit for bit");
        (files, first.min(second))
    }

    /// Starts a run with a checkpoint after each step, and kills it once `path` is there.
    fn killed_when(&self, out: &str, options: &[&str], path: &Path) {
        let options = [options, &["--checkpoint-every", "0"]].concat();
        let mut run = self.command(out, &options).spawn().expect("the program starts");
        let started = Instant::now();
        while !path.exists() {
            assert!(started.elapsed() < PATIENCE, "{} never comes", path.display());
            assert!(run.try_wait().expect("a status").is_none(), "it ends before");
            std::thread::sleep(Duration::from_millis(1));
        }
        run.kill().expect("a signal");
        run.wait().expect("it ends");
    }
}

/// Writes examples as an `.npz`.
pub(super) fn store(path: &Path, data: &Dataset) {
    let plain = Preprocess { scale: 1.0, ..Preprocess::new(1, 16, 16) };
    let all: Vec<usize> = (0..data.len()).collect();
    let mut x = vec![0.0; data.len() * 256];
    data.fill(&all, &plain, None, &mut x, &Threads::new(1)).expect("images");
    let x: Vec<u8> = x.into_iter().map(|x| x as u8).collect();
    let y: Vec<u8> = data.labels(&all).expect("labels").iter().map(|&y| y as u8).collect();
    let mut archive = zip::ZipWriter::new(fs::File::create(path).expect("a new file"));
    for (name, bytes) in [
        ("x.npy", npy("|u1", &[data.len(), 16, 16, 1], &x)),
        ("y.npy", npy("|u1", &[data.len()], &y)),
    ] {
        let options = zip::write::SimpleFileOptions::default();
        archive.start_file(name, options).expect("an entry");
        archive.write_all(&bytes).expect("its content");
    }
    archive.finish().expect("an archive");
}

pub(super) fn ended_well(output: &Output) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
}

/// All files under a folder with their bytes.
pub(super) fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        match entry.path() {
            path if path.is_dir() => files.extend(contents(&path)),
            path => drop(files.insert(path.clone(), fs::read(&path).expect("a file"))),
        }
    }
    files
}

/// Those that a run goes on from: without the lock, and what was being written at a kill.
fn checkpoints(mut files: BTreeMap<PathBuf, Vec<u8>>) -> BTreeMap<PathBuf, Vec<u8>> {
    files.retain(|path, _| path.extension().is_some_and(|kind| kind == "safetensors"));
    files
}

/// The same by their names.
pub(super) fn by_name(files: &BTreeMap<PathBuf, Vec<u8>>) -> BTreeMap<String, &Vec<u8>> {
    let name = |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
    files.iter().map(|(path, bytes)| (name(path), bytes)).collect()
}

/// Lets a process live for a while; whether it then had to be killed.
pub(super) fn is_killed_after(run: &mut Child, life: Duration) -> bool {
    let started = Instant::now();
    while started.elapsed() < life {
        if run.try_wait().expect("a status").is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    run.kill().expect("a signal");
    true
}

/// Between nothing and `most`.
fn a_while(random: &mut Sequence, most: Duration) -> Duration {
    most.mul_f64(f64::from(random.bits()) / f64::from(u32::MAX))
}

/// Kills runs of a scenario until `kills` are used; how many found a checkpoint to go on from.
fn kill(place: &Place, scenario: usize, kills: usize) -> usize {
    let options = SCENARIOS[scenario];
    let (expected, took) = place.undisturbed(options);
    let (mut used, mut round, mut resumed) = (0, 0, 0);
    while used < kills {
        // Every other run keeps what its parts came to, and no position.
        let every = if round % 3 == 2 { "60s" } else { "0" };
        let options = [options, &["--resume", "--checkpoint-every", every]].concat();
        let mut random = Key::new(41, Stream::Probe).at((1000 * scenario + round) as u64);
        let (out, mut lives) = (format!("out-{scenario}-{round}"), Vec::new());
        loop {
            let has_checkpoint = place.out(&out).join("checkpoints").exists();
            let mut run = place.command(&out, &options).spawn().expect("the program starts");
            let life = if used < kills { a_while(&mut random, took) } else { PATIENCE };
            lives.push(life);
            let is_killed = is_killed_after(&mut run, life);
            let output = run.wait_with_output().expect("it ends");
            resumed += usize::from(has_checkpoint);
            if !is_killed {
                ended_well(&output);
                break;
            }
            used += 1;
        }
        let found = contents(&place.out(&out));
        let at = format!("scenario {scenario}, round {round}, lives {lives:?}");
        assert_eq!(
            by_name(&found).keys().collect::<Vec<_>>(),
            by_name(&expected).keys().collect::<Vec<_>>(),
            "{at}"
        );
        assert!(by_name(&found) == by_name(&expected), "another result: {at}");
        fs::remove_dir_all(place.out(&out)).expect("removed");
        round += 1;
    }
    println!("{options:?}: {used} kills, {resumed} runs went on, {round} ended; one took {took:?}");
    resumed
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_as_one_that_is_not() {
    let asked = std::env::var("PRIORFIT_KILLS").ok().and_then(|text| text.parse().ok());
    let kills: usize = asked.unwrap_or(KILLS);
    let place = Place::new();
    let each = kills.div_ceil(SCENARIOS.len());
    let resumed = (0..SCENARIOS.len()).map(|scenario| kill(&place, scenario, each)).sum::<usize>();
    assert!(resumed > 0, "some runs went on");
}

#[test]
fn another_run_into_the_same_folder_is_refused() {
    let place = Place::new();
    let endless = ["--steps", "100000000", "--strength", "1", "--no-gate", "--no-checkpoints"];
    let lock = place.out("out").join("lock");
    let mut run = place.command("out", &endless).spawn().expect("the program starts");
    let started = Instant::now();
    while !lock.exists() {
        assert!(started.elapsed() < PATIENCE, "it begins");
        std::thread::sleep(Duration::from_millis(1));
    }
    // The file is there a moment before it is locked.
    std::thread::sleep(Duration::from_millis(200));
    let output = place.command("out", &["--steps", "1"]).output().expect("the program starts");
    run.kill().expect("a signal");
    run.wait().expect("it ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("out is in use: another run is writing to it"), "{errors}");
    // What the killed one left stops nobody.
    ended_well(&place.command("out", &["--steps", "1"]).output().expect("the program starts"));
    assert_eq!(contents(&place.out("out")).len(), 3);
}

/// Files over a limit cannot be written: a disk that is full, but for small files.
#[cfg(unix)]
#[test]
fn a_full_disk_costs_checkpoints_and_the_result_but_nothing_that_was_there() {
    let place = Place::new();
    let options = SCENARIOS[1];
    let (expected, _) = place.undisturbed(options);
    let position = place.out("out").join("checkpoints/position-1.safetensors");
    place.killed_when("out", options, &position);
    let before = contents(&place.out("out").join("checkpoints"));
    let run = place.command("out", &[options, &["--resume", "--checkpoint-every", "0"]].concat());
    let output = Command::new("sh")
        // 64 KiB, and an error instead of a signal.
        .args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$@\"", "sh"])
        .arg(run.get_program())
        .args(run.get_args())
        .env("XDG_RUNTIME_DIR", std::env::temp_dir())
        .output()
        .expect("a shell");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("no checkpoint: cannot write"), "{errors}");
    assert!(errors.contains("error: cannot write"), "the result has no room either: {errors}");
    let after = contents(&place.out("out").join("checkpoints"));
    for (path, bytes) in checkpoints(before) {
        assert!(after.get(&path) == Some(&bytes), "{} is as it was", path.display());
    }
    let options = [options, &["--resume"]].concat();
    ended_well(&place.command("out", &options).output().expect("the program starts"));
    assert!(by_name(&contents(&place.out("out"))) == by_name(&expected));
}

#[test]
fn a_checkpoint_of_something_else_is_refused_and_kept() {
    let place = Place::new();
    let options = SCENARIOS[0];
    let position = place.out("out").join("checkpoints/position-0.safetensors");
    place.killed_when("out", options, &position);
    let before = checkpoints(contents(&place.out("out").join("checkpoints")));
    let refused = |more: &[&str], part: &str| {
        let options = [options, more].concat();
        let output = place.command("out", &options).output().expect("the program starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(part), "{more:?}: {errors}");
        let left = contents(&place.out("out").join("checkpoints"));
        assert!(checkpoints(left) == before, "{more:?}");
    };
    let ways = "to go on, repeat the command that left it; to begin anew and lose what it holds, \
                add --restart, or remove the folder";
    refused(&["--seed", "7"], ways);
    refused(&["--resume", "--seed", "7"], "settings.seed is 0 there and 7 here");
    refused(&["--resume", "--lr", "0.5"], "settings.learning_rate is 0.01 there and 0.5 here");
    fs::copy(&place.val, &place.train).expect("other data");
    refused(&["--resume"], "train is ");
}

/// Going on ends as beginning anew does, so nobody needs to ask for it.
#[test]
fn the_same_command_goes_on_and_another_says_the_two_ways_there_are() {
    let place = Place::new();
    let options = SCENARIOS[0];
    let (expected, _) = place.undisturbed(options);
    let position = place.out("out").join("checkpoints/position-1.safetensors");
    place.killed_when("out", options, &position);
    let mut run = place.command("out", options);
    run.env("RUST_LOG", "priorfit=debug");
    let output = run.output().expect("the program starts");
    ended_well(&output);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("going on"), "it did not begin anew: {log}");
    assert!(by_name(&contents(&place.out("out"))) == by_name(&expected));
    // With another command it is begun anew, if that is asked for.
    place.killed_when("out", options, &position);
    let other = [options, &["--seed", "7"]].concat();
    let output = place.command("out", &other).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(1));
    let anew = [&other[..], &["--restart"]].concat();
    ended_well(&place.command("out", &anew).output().expect("the program starts"));
    ended_well(&place.command("other", &other).output().expect("the program starts"));
    let [found, expected] = ["out", "other"].map(|name| contents(&place.out(name)));
    assert!(by_name(&found) == by_name(&expected));
}
