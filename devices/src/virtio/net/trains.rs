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

#[cfg(test)]
mod tests {
    use super::*;

    /// How often the host is asked by a turn for which it has that many frames, and whether in vain at last.
    fn turn(trains: &mut Trains, there: u16) -> (u16, bool) {
        for frames in 0..=there {
            if trains.is_over(frames) {
                return (frames, false);
            }
        }
        trains.ended(there);
        (there + 1, true)
    }

    #[test]
    fn who_sends_one_at_a_time_is_asked_in_vain_now_and_then() {
        let mut trains = Trains::new();
        assert_eq!(turn(&mut trains, 1), (2, true));
        for _ in 0..3 {
            for _ in 0..MOST_UNASKED {
                assert_eq!(turn(&mut trains, 1), (1, false));
            }
            assert_eq!(turn(&mut trains, 1), (2, true));
        }
    }

    #[test]
    fn who_sends_more_is_asked_for_more_before_long() {
        let mut trains = Trains::new();
        turn(&mut trains, 1);
        let turns = (0..).position(|_| turn(&mut trains, 5) == (6, true));
        assert_eq!(turns, Some(usize::from(MOST_UNASKED)));
        assert_eq!(turn(&mut trains, 5), (5, false));
        // And for less when there is less.
        assert_eq!(turn(&mut trains, 2), (3, true));
        assert_eq!(turn(&mut trains, 2), (2, false));
    }

    #[test]
    fn a_turn_without_any_says_nothing() {
        let mut trains = Trains::new();
        turn(&mut trains, 1);
        assert_eq!(turn(&mut trains, 0), (1, true));
        assert_eq!(turn(&mut trains, 1), (1, false));
    }
}
