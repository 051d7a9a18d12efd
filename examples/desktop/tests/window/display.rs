//! A display in memory, with a mouse and a keyboard.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use x11rb::connection::Connection;
use x11rb::protocol::xproto::{
    self, ClientMessageEvent, ConnectionExt as _, EventMask, InputFocus,
};
use x11rb::protocol::xtest::ConnectionExt as _;
use x11rb::rust_connection::RustConnection;

const SIZE: &str = "1240x840x24";
/// Between two events of a hand.
const PACE: Duration = Duration::from_millis(12);

const KEY: [u8; 2] = [xproto::KEY_PRESS_EVENT, xproto::KEY_RELEASE_EVENT];
const BUTTON: [u8; 2] = [xproto::BUTTON_PRESS_EVENT, xproto::BUTTON_RELEASE_EVENT];
const MOTION: u8 = xproto::MOTION_NOTIFY_EVENT;

/// An X server of our own.
pub struct Display {
    server: Child,
    pub name: String,
    connection: RustConnection,
    root: u32,
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Display {
    /// None where there is no Xvfb.
    pub fn start() -> Option<Self> {
        let mut server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", SIZE, "-nolisten", "tcp", "-noreset", "-ac"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let output = server.stdout.take().expect("a pipe");
        let mut number = String::new();
        BufReader::new(output).read_line(&mut number).expect("the display's number");
        let name = format!(":{}", number.trim());
        let (connection, screen) = x11rb::connect(Some(&name)).expect("a connection");
        let root = connection.setup().roots[screen].root;
        Some(Display { server, name, connection, root })
    }

    /// The program's window, when it is shown, and where it lies.
    pub fn window(&self) -> Option<(u32, [i16; 2])> {
        let children = self.connection.query_tree(self.root).ok()?.reply().ok()?.children;
        children.into_iter().find_map(|window| {
            let size = self.connection.get_geometry(window).ok()?.reply().ok()?;
            let look = self.connection.get_window_attributes(window).ok()?.reply().ok()?;
            let is_shown = look.map_state == xproto::MapState::VIEWABLE;
            (is_shown && size.width > 500).then_some((window, [size.x, size.y]))
        })
    }

    /// Has the keyboard write to a window. No window manager does.
    pub fn focus(&self, window: u32) {
        let focus = self.connection.set_input_focus(InputFocus::PARENT, window, 0u32);
        focus.expect("sent").check().expect("focused");
    }

    /// Asks a window to close, as its frame's button would.
    pub fn close(&self, window: u32) {
        let atom = |name: &str| {
            let cookie = self.connection.intern_atom(false, name.as_bytes()).expect("sent");
            cookie.reply().expect("an atom").atom
        };
        let data = [atom("WM_DELETE_WINDOW"), 0, 0, 0, 0];
        let event = ClientMessageEvent::new(32, window, atom("WM_PROTOCOLS"), data);
        let sent = self.connection.send_event(false, window, EventMask::NO_EVENT, event);
        sent.expect("sent").check().expect("delivered");
    }

    pub fn move_to(&self, at: [i16; 2]) {
        self.fake(MOTION, 0, at);
    }

    /// Presses the left button, or lets it go.
    pub fn button(&self, is_down: bool) {
        self.fake(BUTTON[usize::from(!is_down)], 1, [0, 0]);
    }

    /// Presses a key and lets it go, with another held down.
    pub fn key(&self, key: u32, held: Option<u32>) {
        let code = self.code(key);
        let held = held.map(|key| self.code(key));
        held.iter().for_each(|&held| self.fake(KEY[0], held, [0, 0]));
        self.fake(KEY[0], code, [0, 0]);
        self.fake(KEY[1], code, [0, 0]);
        held.iter().for_each(|&held| self.fake(KEY[1], held, [0, 0]));
    }

    fn fake(&self, kind: u8, detail: u8, [x, y]: [i16; 2]) {
        let sent = self.connection.xtest_fake_input(kind, detail, 0, self.root, x, y, 0);
        sent.expect("sent").check().expect("an event");
        std::thread::sleep(PACE);
    }

    /// The code of the key that gives `key` by itself.
    fn code(&self, key: u32) -> u8 {
        let setup = self.connection.setup();
        let (first, last) = (setup.min_keycode, setup.max_keycode);
        let cookie = self.connection.get_keyboard_mapping(first, last - first + 1).expect("sent");
        let mapping = cookie.reply().expect("the keyboard");
        let width = usize::from(mapping.keysyms_per_keycode);
        let at = mapping.keysyms.chunks(width).position(|keys| keys.first() == Some(&key));
        first + at.unwrap_or_else(|| panic!("no key gives {key:#x}")) as u8
    }
}
