//! What is said to a vhost-user back end over its socket, and what it answers.
//!
//! Messages are those of crate `vhost`. Its front end waits for an answer however long that takes, and a guest's processor
//! that resets the device would wait as long; so the waiting is done here. Who does not answer in time, or with what is no
//! answer, is spoken to no more.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::{FrontendReq, VhostUserHeaderFlag, VhostUserU64};
use vm_memory::ByteValued;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::poll::{polled_for_input, wait};

/// The version of the protocol, in a header's flags.
const VERSION: u32 = 1;
/// Bytes of a header: request, flags and the size of what follows, in the host's byte order.
const HEADER_BYTES: usize = 12;

/// A back end's socket.
pub(super) struct Channel {
    socket: UnixStream,
    /// How long the answers of a turn may take.
    patience: Duration,
    /// When those of this turn are to be here.
    deadline: Instant,
    /// It says of each request whether it has been done (VHOST_USER_PROTOCOL_F_REPLY_ACK).
    acknowledges: bool,
    /// It is spoken to no more.
    is_over: bool,
}

impl Channel {
    /// That of a socket.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn new(socket: UnixStream, patience: Duration) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            patience,
            deadline: Instant::now() + patience,
            acknowledges: false,
            is_over: false,
        })
    }

    /// Has the time for answers begin anew. Somebody waits for all that is asked in one turn, however many answers that are.
    pub(super) fn begin_turn(&mut self) {
        self.deadline = Instant::now() + self.patience;
    }

    /// Speaks to it no more, and has it know: it ends when it has done what it is at.
    pub(super) fn end(&mut self) {
        self.is_over = true;
        // It may have ended before.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Whether its end of the socket is open.
    pub(super) fn is_open(&self) -> bool {
        let mut polled = [libc::pollfd {
            fd: self.socket.as_raw_fd(),
            events: libc::POLLRDHUP,
            revents: 0,
        }];
        wait(&mut polled, Some(Duration::ZERO)).is_ok() && polled[0].revents == 0
    }

    /// Has the answers of a turn from now on take so long, and each request acknowledged if the back end does that.
    pub(super) const fn settle(&mut self, patience: Duration, acknowledges: bool) {
        self.patience = patience;
        self.acknowledges = acknowledges;
    }

    /// Asks, with `body` and `descriptors`.
    ///
    /// # Errors
    /// There is no answer.
    pub(super) fn ask<T: ByteValued + Default>(
        &mut self,
        request: FrontendReq,
        body: &[u8],
    ) -> io::Result<T> {
        let answer = self.send(request, 0, body, &[]);
        let answer = answer.and_then(|()| self.answer(request));
        self.end_with(answer)
    }

    /// Has something done, and waits until it is: the back end says so, or answers the next question.
    ///
    /// # Errors
    /// It is not done, or there is no answer.
    pub(super) fn tell(
        &mut self,
        request: FrontendReq,
        body: &[u8],
        descriptors: &[RawFd],
    ) -> io::Result<()> {
        if !self.acknowledges {
            let sent = self.send(request, 0, body, descriptors);
            self.end_with(sent)?;
            return self
                .ask::<VhostUserU64>(FrontendReq::GET_FEATURES, &[])
                .map(|_| ());
        }
        let flags = VhostUserHeaderFlag::NEED_REPLY.bits();
        let sent = self.send(request, flags, body, descriptors);
        let answer = sent.and_then(|()| self.answer::<VhostUserU64>(request));
        match self.end_with(answer)?.value {
            0 => Ok(()),
            _ => Err(io::Error::other(format!("it refuses {request:?}"))),
        }
    }

    /// Says something to which there is no answer.
    ///
    /// # Errors
    /// It is not heard.
    pub(super) fn say(&mut self, request: FrontendReq, body: &[u8]) -> io::Result<()> {
        let sent = self.send(request, 0, body, &[]);
        self.end_with(sent)
    }

    fn end_with<T>(&mut self, outcome: io::Result<T>) -> io::Result<T> {
        self.is_over |= outcome.is_err();
        outcome
    }

    fn send(
        &self,
        request: FrontendReq,
        flags: u32,
        body: &[u8],
        descriptors: &[RawFd],
    ) -> io::Result<()> {
        if self.is_over {
            return Err(io::Error::other("it is spoken to no more"));
        }
        let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let header = [u32::from(request), VERSION | flags, bytes].map(u32::to_ne_bytes);
        let message = [header.as_flattened(), body].concat();
        let sent = loop {
            match self
                .socket
                .send_with_fds(&[message.as_slice()], descriptors)
            {
                Err(error) if error.errno() == libc::EINTR => {}
                sent => break sent,
            }
        };
        match sent.map_err(|error| io::Error::from_raw_os_error(error.errno())) {
            // What it has not read yet would have to be many times as long as all that is said to it.
            Ok(sent) if sent == message.len() => Ok(()),
            Ok(_) => Err(io::Error::other("it does not read what it is told")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::other("it does not read what it is told"))
            }
            Err(error) => Err(error),
        }
    }

    /// The answer to a request. Descriptors that come with it are closed by the kernel: read(2) takes none.
    fn answer<T: ByteValued + Default>(&self, request: FrontendReq) -> io::Result<T> {
        let mut header = [0; HEADER_BYTES];
        self.read(&mut header)?;
        let (fields, _) = header.as_chunks::<4>();
        let mut fields = fields.iter().map(|field| u32::from_ne_bytes(*field));
        let wanted = [
            u32::from(request),
            VERSION | VhostUserHeaderFlag::REPLY.bits(),
            u32::try_from(size_of::<T>()).unwrap_or(u32::MAX),
        ];
        // Some leave the wish for an answer in its flags.
        let idle = [0, VhostUserHeaderFlag::NEED_REPLY.bits(), 0];
        let is_answer = wanted
            .into_iter()
            .zip(idle)
            .all(|(wanted, idle)| fields.next().is_some_and(|field| field & !idle == wanted));
        if !is_answer {
            return Err(io::Error::other(format!(
                "its answer to {request:?} makes no sense"
            )));
        }
        let mut body = T::default();
        self.read(body.as_mut_slice())?;
        Ok(body)
    }

    fn read(&self, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match (&self.socket).read(bytes) {
                Ok(0) => return Err(io::Error::other("it has ended")),
                Ok(count) => bytes = bytes.get_mut(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = self.deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        let patience = self.patience.as_secs_f32();
                        return Err(io::Error::other(format!(
                            "it has not answered for {patience} s"
                        )));
                    }
                    let mut polled = [polled_for_input(self.socket.as_raw_fd())];
                    wait(&mut polled, Some(left))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
