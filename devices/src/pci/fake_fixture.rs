//! A function behind a host bridge, for tests.

use super::*;

/// A host bridge with one fake function, and all that is around it.
pub(crate) struct Fixture {
    pub(crate) bridge: HostBridge,
    pub(crate) backend: Arc<FakeFunction>,
    pub(crate) space: Arc<FakeSpace>,
    pub(crate) lines: Arc<FakeLines>,
    pub(crate) board: Board,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(|function| function)
    }

    pub(crate) fn with(change: impl FnOnce(FakeFunction) -> FakeFunction) -> Self {
        Self::behind(0, change)
    }

    /// The function behind host bridge `number`.
    pub(crate) fn behind(number: u8, change: impl FnOnce(FakeFunction) -> FakeFunction) -> Self {
        Self::try_behind(number, change).unwrap()
    }

    /// The same, of a function that may be none that can be passed through.
    pub(crate) fn try_behind(
        number: u8,
        change: impl FnOnce(FakeFunction) -> FakeFunction,
    ) -> Result<Self, PciError> {
        Self::with_lines(number, FakeLines::default(), change)
    }

    /// The function in a machine with EEH, and the endpoint that it is.
    pub(crate) fn with_endpoint() -> (Self, Arc<FakeEndpoint>) {
        Self::new().in_endpoint()
    }

    /// The same with EEH.
    pub(crate) fn in_endpoint(mut self) -> (Self, Arc<FakeEndpoint>) {
        let endpoint = FakeEndpoint::of(&self.backend);
        self.bridge = self.bridge.with_endpoint(endpoint.clone());
        (self, endpoint)
    }

    /// The function in a machine whose lines nobody knows to be listened to.
    pub(crate) fn sampled_by_time() -> Self {
        let lines = FakeLines {
            by_time: true,
            ..FakeLines::default()
        };
        Self::with_lines(0, lines, |function| function).unwrap()
    }

    fn with_lines(
        number: u8,
        lines: FakeLines,
        change: impl FnOnce(FakeFunction) -> FakeFunction,
    ) -> Result<Self, PciError> {
        let space = Arc::new(FakeSpace::default());
        let lines = Arc::new(lines);
        let board = Board {
            space: space.clone(),
            lines: lines.clone(),
            lisns: Arc::new(LisnAllocator::new()),
            host_page_bytes: PAGE,
        };
        let backend = Arc::new(change(FakeFunction::new("0000:01:00.0", space.clone())));
        let at: Vec<(DeviceFunction, Arc<dyn FunctionBackend>)> =
            vec![(DeviceFunction::from_byte(0), backend.clone())];
        let bridge = HostBridge::new(number, &board, at)?;
        Ok(Self {
            bridge,
            backend,
            space,
            lines,
            board,
        })
    }
}
