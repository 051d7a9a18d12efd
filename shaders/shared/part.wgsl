// Part: what a launch sees of its operand and of its result, as far as each is bound. Threads
// number the elements of one of them; what lies outside the other's window is another launch's.

//!include grid

struct Part {
    // First element and number of elements of the window that threads number.
    first: u32,
    len: u32,
    // The same of the other window.
    other_first: u32,
    other_len: u32,
}

// Where element `at` of the other value is in its window, and whether it is.
struct Held {
    at: u32,
    inside: bool,
}

fn held(at: u32) -> Held {
    let place = at - params.part.other_first;
    return Held(place, place < params.part.other_len);
}
