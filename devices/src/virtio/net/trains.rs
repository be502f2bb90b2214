//! How many frames come together. To ask the host for one that is not there is a system call more, and to wait when there
//! is one, too: so it is asked for as many as came together the last time, and now and then for more.

/// How many turns may end without a question for more.
const MOST_UNASKED: u8 = 7;

/// What is known of frames that come together.
pub(super) struct Trains {
    /// How many it were when it was last asked for more than there are.
    frames: u16,
    unasked: u8,
}

impl Trains {
    /// Nothing is known yet.
    pub(super) const fn new() -> Self {
        Self {
            frames: 0,
            unasked: MOST_UNASKED,
        }
    }

    /// Whether a turn that has had so many `frames` asks for no more.
    pub(super) const fn is_over(&mut self, frames: u16) -> bool {
        let is_over = frames == self.frames && frames != 0 && self.unasked < MOST_UNASKED;
        if is_over {
            self.unasked += 1;
        }
        is_over
    }

    /// The host had so many and no more.
    pub(super) const fn ended(&mut self, frames: u16) {
        if frames != 0 {
            self.frames = frames;
            self.unasked = 0;
        }
    }
}
