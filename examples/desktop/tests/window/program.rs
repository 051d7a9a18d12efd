//! The program, as seen through its report and touched through its display.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::display::Display;

/// Mesa's GPU in software, on Debian and those like it: a hardware driver may not be able to draw
/// into a display that is only in memory.
const SOFTWARE: &str = "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json";
/// How long a step of the test may take: a processor that is shared draws and adapts in software.
const PATIENCE: Duration = Duration::from_secs(900);

const CONTROL: u32 = 0xffe3;
const F12: u32 = 0xffc9;

pub struct Program {
    child: Child,
    display: Display,
    folder: TempDir,
    window: u32,
    origin: [i16; 2],
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    pub fn start(display: Display) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_priorfit-desktop"));
        command
            .args(["--report", "report.json", "--screenshot", "window.png", "--steps", "4"])
            .current_dir(folder.path())
            .env("DISPLAY", &display.name)
            .env_remove("WAYLAND_DISPLAY")
            .env_remove("WAYLAND_SOCKET");
        if Path::new(SOFTWARE).is_file() {
            command.env("VK_ICD_FILENAMES", SOFTWARE).env("VK_DRIVER_FILES", SOFTWARE);
        }
        let child = command.spawn().expect("the program");
        let mut program = Program { child, display, folder, window: 0, origin: [0, 0] };
        let started = Instant::now();
        while program.window == 0 {
            program.check(started, "a window");
            if let Some((window, origin)) = program.display.window() {
                (program.window, program.origin) = (window, origin);
            }
        }
        program.display.focus(program.window);
        program
    }

    /// Where it runs and writes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its newest report; null before the first.
    pub fn state(&self) -> Value {
        let path: PathBuf = self.folder().join("report.json");
        let bytes = std::fs::read(path).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or(Value::Null)
    }

    /// Waits until its report says so.
    pub fn wait(&mut self, what: &str, is_so: impl Fn(&Value) -> bool) {
        let started = Instant::now();
        while !is_so(&self.state()) {
            self.check(started, what);
        }
        println!("{what}: {:.1} s", started.elapsed().as_secs_f32());
    }

    /// Waits a little, unless it has been too long or the program has ended.
    fn check(&mut self, started: Instant, what: &str) {
        let mut state = self.state();
        state["controls"].take();
        let is_late = started.elapsed() > PATIENCE;
        assert!(!is_late, "waited for {what} in vain: {state:#}");
        let ended = self.child.try_wait().expect("its status");
        assert!(ended.is_none(), "it ended while {what} was waited for: {ended:?}");
        std::thread::sleep(Duration::from_millis(30));
    }

    /// A place on a control, 0 to 1 along its width and height.
    fn place(&self, control: &Value, at: [f32; 2]) -> [i16; 2] {
        let number = |key: &str| control[key].as_f64().expect("a number") as f32;
        let x = number("x") + at[0] * number("width");
        let y = number("y") + at[1] * number("height");
        [self.origin[0] + x.round() as i16, self.origin[1] + y.round() as i16]
    }

    /// A control that can be used, as soon as it can.
    fn control(&mut self, name: &str) -> Value {
        let is_ready = |state: &Value| state["controls"][name]["is_enabled"] == true;
        self.wait(&format!("the control {name}"), is_ready);
        self.state()["controls"][name].clone()
    }

    pub fn click(&mut self, name: &str) {
        let control = self.control(name);
        self.display.move_to(self.place(&control, [0.5, 0.5]));
        // A frame may lie between two events, and a press counts where the pointer was before it.
        std::thread::sleep(Duration::from_millis(100));
        self.display.button(true);
        std::thread::sleep(Duration::from_millis(60));
        self.display.button(false);
    }

    /// Draws a line through places of a control.
    pub fn draw(&mut self, name: &str, points: &[[f32; 2]]) {
        let control = self.control(name);
        self.display.move_to(self.place(&control, points[0]));
        std::thread::sleep(Duration::from_millis(100));
        self.display.button(true);
        for ends in points.windows(2) {
            for step in 1..=8 {
                let share = step as f32 / 8.0;
                let at = [0, 1].map(|i| ends[0][i] + share * (ends[1][i] - ends[0][i]));
                self.display.move_to(self.place(&control, at));
            }
        }
        self.display.button(false);
    }

    /// Presses the key of a letter or digit, or F12.
    pub fn press(&mut self, key: &str) {
        let symbol = match key {
            "F12" => F12,
            key => key.chars().next().map_or(0, u32::from),
        };
        self.display.key(symbol, None);
    }

    /// Control and A.
    pub fn select_all(&mut self) {
        self.display.key(u32::from('a'), Some(CONTROL));
    }

    /// Closes the window, and expects the program to end well.
    pub fn close(mut self) {
        self.display.close(self.window);
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(started.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(30));
        }
    }
}
