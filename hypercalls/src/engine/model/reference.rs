//! The plain model: the tables that the guest should see, and the code of each call.

use super::step::{Step, ram, windows};
use super::*;

/// A window as the model knows it: its table, if the guest has the window.
pub(crate) struct Model {
    pub(crate) tables: [Option<Vec<u64>>; 6],
    /// Windows that the host refused to unmap: the view may show more than is live.
    pub(crate) dirty: [bool; 6],
}

/// What a call should write, or its refusal.
pub(crate) type Expected = Result<Option<(usize, usize, Vec<u64>)>, ReturnCode>;

impl Model {
    pub(crate) fn new() -> Self {
        let mut model = Self {
            tables: Default::default(),
            dirty: [false; 6],
        };
        model.reset();
        model
    }

    pub(crate) fn reset(&mut self) {
        for (which, (_, liobn, geometry)) in windows().iter().enumerate() {
            let is_default = liobn & 1 == 0;
            self.tables[which] =
                is_default.then(|| vec![0; usize::try_from(geometry.entries).unwrap()]);
        }
    }

    /// The window and first entry of a range, every page of which is in the window.
    pub(crate) fn range(&self, liobn: u64, ioba: u64, count: u64) -> Option<(usize, usize)> {
        let which = windows().iter().position(|(_, name, _)| *name == liobn)?;
        self.tables[which].as_ref()?;
        let geometry = windows()[which].2;
        let page = u128::from(geometry.page_shift.bytes());
        let start = u128::from(geometry.bus_offset.0);
        let end = start + u128::from(geometry.entries) * page;
        let first = u128::from(ioba);
        let last = first + u128::from(count.max(1)) * page;
        let valid = first % page == 0 && first >= start && last <= end;
        valid.then(|| (which, usize::try_from((first - start) / page).unwrap()))
    }

    fn can_map(which: usize, tce: u64) -> bool {
        let page = u128::from(windows()[which].2.page_shift.bytes());
        let address = u128::from(tce & !3);
        let holds = |piece: &GuestRange| {
            let start = u128::from(piece.start.0);
            address >= start && address + page <= start + u128::from(piece.bytes)
        };
        tce & 3 == 0 || address.is_multiple_of(page) && ram().iter().any(holds)
    }

    fn write(&self, liobn: u64, ioba: u64, values: &[u64]) -> Expected {
        let (which, first) = self
            .range(liobn, ioba, values.len() as u64)
            .ok_or(PARAMETER)?;
        if values.iter().any(|&tce| !Self::can_map(which, tce)) {
            return Err(PARAMETER);
        }
        Ok(Some((which, first, values.to_vec())))
    }

    pub(crate) fn expected(&self, step: &Step, memory: &FakeMemory) -> Expected {
        match *step {
            Step::Put { liobn, ioba, tce } => self.write(liobn, ioba, &[tce]),
            Step::Stuff {
                liobn,
                ioba,
                value,
                count,
            } => {
                let (which, first) = self.range(liobn, ioba, count).ok_or(PARAMETER)?;
                if value & 3 != 0 {
                    return Err(PARAMETER);
                }
                Ok(Some((
                    which,
                    first,
                    vec![value; usize::try_from(count).unwrap()],
                )))
            }
            Step::Indirect {
                liobn,
                ioba,
                ref list,
                at,
                count,
            } => {
                let count = usize::try_from(count.unwrap_or(list.len() as u64)).unwrap();
                if count > 512 || at % 4096 != 0 {
                    return Err(PARAMETER);
                }
                let mut values = vec![0; count];
                let read = memory.read_doublewords(GuestPhysicalAddress(at), &mut values);
                read.map_err(|_| PARAMETER)?;
                self.write(liobn, ioba, &values)
            }
            _ => Ok(None),
        }
    }
}
