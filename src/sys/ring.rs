//! One io_uring: set up with the best this kernel has, asked by typed requests, read by completions.
//!
//! Requests carry a *tag* that comes back with each of their completions. Whatever a request points to (a
//! [`Name`], a [`Batch`]) its caller keeps in place until the completion; that is the rule all SAFETY comments
//! here lean on, and `net::uring` is the one caller.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use io_uring::types::{Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::batch::{Batch, Next};
use super::buffer_ring::{BufferRing, GROUP};
use super::name::Name;

/// SOCKET_URING_OP_GETSOCKOPT (uapi/linux/io_uring.h).
const GETSOCKOPT: u32 = 2;
/// IORING_REGISTER_FILE_ALLOC_RANGE (uapi/linux/io_uring.h).
const REGISTER_FILE_ALLOC_RANGE: libc::c_long = 25;
/// The tag of requests whose failure does not matter.
pub(crate) const IGNORED: u64 = u64::MAX;

/// What of io_uring is in use, as this kernel allows. Displays as a line for a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// The kernel knows that one thread submits (IORING_SETUP_SINGLE_ISSUER, Linux 6.0).
    pub single_issuer: bool,
    /// Completions are worked out when we ask for them, not by interrupting us (DEFER_TASKRUN, 6.1).
    pub defer_taskrun: bool,
    /// Or at least only when we enter the kernel anyway (COOP_TASKRUN, 5.19).
    pub coop_taskrun: bool,
    /// No indirection between the queue and its entries (NO_SQARRAY, 6.6).
    pub no_sqarray: bool,
    /// The ring's own descriptor is registered (5.18).
    pub registered_ring: bool,
    /// A caller's address can be asked for by the ring, so that accepting is multishot (6.7).
    pub peer_name: bool,
    /// A busy shard waits a little for several completions (IORING_FEAT_MIN_TIMEOUT, 6.12).
    pub gathered_waits: bool,
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.single_issuer, "single issuer"),
            (self.defer_taskrun, "deferred completions"),
            (self.coop_taskrun, "cooperative completions"),
            (self.no_sqarray, "flat submission queue"),
            (self.registered_ring, "registered ring"),
            (self.peer_name, "multishot accept"),
            (self.gathered_waits, "gathered waits"),
        ];
        let list = |wanted| {
            let words: Vec<&str> =
                all.iter().filter(|(has, _)| *has == wanted).map(|(_, word)| *word).collect();
            words.join(", ")
        };
        write!(
            f,
            "io_uring with {}",
            if *self == Features::default() { "nothing special".into() } else { list(true) }
        )?;
        match list(false) {
            missing if missing.is_empty() => Ok(()),
            missing => write!(f, "; this kernel lacks: {missing}"),
        }
    }
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Open {
    /// Made if it is not there.
    pub(crate) make: bool,
    /// Past the page cache: addresses, lengths and places are multiples of a block.
    pub(crate) direct: bool,
}

/// How long to wait for a completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    No,
    AtMost(Duration),
    Forever,
}

/// A wait for several completions: for this long, and after that for one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gather {
    pub(crate) completions: u32,
    pub(crate) micros: u32,
}

/// One completion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) tag: u64,
    /// What the call would return: negative errno on failure.
    pub(crate) result: i32,
    /// More completions of this request follow.
    pub(crate) more: bool,
    /// The number of the buffer that was received into.
    pub(crate) buffer: Option<u16>,
}

pub(crate) struct Ring {
    ring: IoUring,
    /// Requests the queue had no room for: the kernel wanted completions to be read first.
    waiting: VecDeque<squeue::Entry>,
    pub(crate) features: Features,
}

impl Ring {
    /// A ring of the calling thread. With `plain`, only what Linux 6.1 has.
    pub(crate) fn new(entries: u32, completions: u32, plain: bool) -> io::Result<Ring> {
        let all = Features {
            single_issuer: true,
            defer_taskrun: true,
            coop_taskrun: true,
            no_sqarray: true,
            ..Features::default()
        };
        let attempts = [
            all,
            Features { no_sqarray: false, ..all },
            Features { no_sqarray: false, defer_taskrun: false, ..all },
            Features { coop_taskrun: true, ..Features::default() },
            Features::default(),
        ];
        let mut outcome = Err(io::Error::from_raw_os_error(libc::EINVAL));
        for features in attempts.into_iter().skip(usize::from(plain)) {
            outcome = Self::build(entries, completions, features);
            match &outcome {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                _ => break,
            }
        }
        let mut this = outcome?;
        this.features.gathered_waits = !plain && this.ring.params().is_feature_min_timeout();
        this.features.registered_ring = this.ring.submitter().register_ring_fd().is_ok();
        Ok(this)
    }

    fn build(entries: u32, completions: u32, features: Features) -> io::Result<Ring> {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(completions).setup_submit_all();
        if features.single_issuer {
            builder.setup_single_issuer();
        }
        if features.defer_taskrun {
            builder.setup_defer_taskrun();
        }
        if features.coop_taskrun {
            builder.setup_coop_taskrun();
        }
        if features.no_sqarray {
            builder.setup_no_sqarray();
        }
        Ok(Ring { ring: builder.build(entries)?, waiting: VecDeque::new(), features })
    }

    /// Prepares the table of direct descriptors: the first `accepted` places are the kernel's to fill when
    /// accepting, the `opened` after them are ours.
    pub(crate) fn register_files(&mut self, accepted: u32, opened: u32) -> io::Result<()> {
        self.ring.submitter().register_files_sparse(accepted + opened)?;
        let range: [u64; 2] = [u64::from(accepted) << 32, 0];
        // SAFETY: `range` is an io_uring_file_index_range { off: u32, len: u32, resv: u64 }: read only.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.ring.as_raw_fd(),
                REGISTER_FILE_ALLOC_RANGE,
                range.as_ptr(),
                0,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(crate) fn register_buffers(&mut self, entries: u16) -> io::Result<BufferRing> {
        BufferRing::register(&self.ring, entries)
    }

    /// Puts an open file into a place of the table that is empty; the ring has its own reference then.
    pub(crate) fn install(&mut self, direct: u32, file: &impl AsRawFd) -> io::Result<()> {
        self.ring.submitter().register_files_update(direct, &[file.as_raw_fd()]).map(drop)
    }

    /// Empties a place of the table that no request uses.
    pub(crate) fn uninstall(&mut self, direct: u32) -> io::Result<()> {
        self.ring.submitter().register_files_update(direct, &[-1]).map(drop)
    }

    /// Finds out whether [`peer_name`](Self::peer_name) works here, by asking it of a socket without a peer in
    /// that place of the table: a kernel that knows the request says so.
    pub(crate) fn probe_peer_name(&mut self, direct: u32) -> io::Result<bool> {
        let mut name = Name::EMPTY;
        self.peer_name(direct, &mut name, true, 0);
        self.enter(Wait::Forever, None)?;
        let answer = self.next();
        Ok(answer.is_some_and(|answer| answer.result == -libc::ENOTCONN))
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    // Requests.

    fn push(&mut self, entry: squeue::Entry) {
        if self.waiting.is_empty() && !self.try_push(&entry) {
            // The queue is full: hand over what is in it.
            let _ = self.ring.submit();
            if !self.try_push(&entry) {
                self.waiting.push_back(entry);
            }
        } else if !self.waiting.is_empty() {
            self.waiting.push_back(entry);
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: by the module's rule all that the entry points to stays until its completion.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Accepts into the table until cancelled; a completion per connection has its place as result.
    pub(crate) fn accept_all(&mut self, listener: &impl AsRawFd, tag: u64) {
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true).build();
        self.push(entry.user_data(tag));
    }

    /// Accepts one into the table, and its address into `name`.
    pub(crate) fn accept_one(&mut self, listener: &impl AsRawFd, name: &mut Name, tag: u64) {
        *name = Name::EMPTY;
        let entry = opcode::Accept::new(Fd(listener.as_raw_fd()), name.as_mut_ptr(), name.len_mut_ptr())
            .file_index(Some(io_uring::types::DestinationSlot::auto_target()))
            .build();
        self.push(entry.user_data(tag));
    }

    /// Asks for the address of a stream's peer (`SO_PEERNAME`, which answers only for the exact length).
    pub(crate) fn peer_name(&mut self, direct: u32, name: &mut Name, is_ipv4: bool, tag: u64) {
        *name = Name::EMPTY;
        let len = if is_ipv4 { size_of::<libc::sockaddr_in>() } else { size_of::<libc::sockaddr_in6>() };
        let entry = opcode::SetSockOpt::new(
            Fixed(direct),
            libc::SOL_SOCKET as u32,
            libc::SO_PEERNAME as u32,
            name.as_mut_ptr().cast_const().cast(),
            len as u32,
        )
        .build()
        .user_data(tag);
        // The crate builds only the setting sort; reading differs in the command alone.
        // SAFETY: `Entry` is the kernel's 64-byte io_uring_sqe (`repr(C)`), in which `cmd_op` is the u32 at
        // offset 8; every value of those bytes is an entry.
        let entry = unsafe {
            let mut raw: [u32; 16] = std::mem::transmute(entry);
            raw[2] = GETSOCKOPT;
            std::mem::transmute::<[u32; 16], squeue::Entry>(raw)
        };
        self.push(entry);
    }

    pub(crate) fn connect(&mut self, direct: u32, name: &Name, tag: u64) {
        self.push(opcode::Connect::new(Fixed(direct), name.as_ptr(), name.len()).build().user_data(tag));
    }

    /// Receives into lent buffers until cancelled, the end, or there are none.
    pub(crate) fn receive(&mut self, direct: u32, tag: u64) {
        self.push(opcode::RecvMulti::new(Fixed(direct), GROUP).build().user_data(tag));
    }

    /// Sends what is next of a sealed batch. False: nothing is.
    pub(crate) fn send(&mut self, direct: u32, batch: &mut Batch, tag: u64) -> bool {
        // A mark within is told of when what lies before it has left, not only when all has: its answer may come first.
        let until = if batch.has_marks_within() { 0 } else { libc::MSG_WAITALL };
        let flags = libc::MSG_NOSIGNAL | until;
        let entry = match batch.next() {
            None => return false,
            Some(Next::One(iovec)) => {
                let len = u32::try_from(iovec.iov_len).unwrap_or(u32::MAX);
                opcode::Send::new(Fixed(direct), iovec.iov_base.cast_const().cast(), len).flags(flags).build()
            }
            Some(Next::Many(header)) => {
                opcode::SendMsg::new(Fixed(direct), header).flags(flags as u32).build()
            }
        };
        self.push(entry.user_data(tag));
        true
    }

    /// Empties a place of the table. With its last request ended, the stream is closed (FIN).
    ///
    /// Never IORING_OP_SHUTDOWN: that runs late in a worker thread, and then hits whatever has the place by then.
    pub(crate) fn close(&mut self, direct: u32, tag: u64) {
        self.push(opcode::Close::new(Fixed(direct)).build().user_data(tag));
    }

    /// Ends the request with that tag early, if it is under way; it completes with ECANCELED.
    pub(crate) fn cancel(&mut self, tag: u64) {
        let entry = opcode::AsyncCancel::new(tag).build();
        self.push(entry.user_data(IGNORED).flags(squeue::Flags::SKIP_SUCCESS));
    }

    /// Makes a completion with `their_tag` appear in another ring. Completes with `tag` only if it cannot.
    pub(crate) fn message(&mut self, ring: RawFd, their_tag: u64, tag: u64) {
        let entry = opcode::MsgRingData::new(Fd(ring), 0, their_tag, None).build();
        self.push(entry.user_data(tag).flags(squeue::Flags::SKIP_SUCCESS));
    }

    /// Completes when the file is readable.
    pub(crate) fn watch(&mut self, file: RawFd, tag: u64) {
        let entry = opcode::PollAdd::new(Fd(file), libc::POLLIN as u32).build();
        self.push(entry.user_data(tag));
    }

    /// Has an AF_XDP socket send what is in its ring. Completes only if it cannot.
    pub(crate) fn kick(&mut self, socket: RawFd, tag: u64) {
        let entry = opcode::Send::new(Fd(socket), std::ptr::null(), 0).flags(libc::MSG_DONTWAIT).build();
        self.push(entry.user_data(tag).flags(squeue::Flags::SKIP_SUCCESS));
    }

    // Files, by ordinary descriptors.

    /// Writes bytes that stay where they are until the completion; durably, if wanted (RWF_DSYNC).
    pub(crate) fn write_at(&mut self, file: BorrowedFd<'_>, bytes: &[u8], at: u64, durable: bool, tag: u64) {
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let entry = opcode::Write::new(Fd(file.as_raw_fd()), bytes.as_ptr(), len).offset(at).rw_flags(flags);
        self.push(entry.build().user_data(tag));
    }

    /// Fills what is next of a sealed batch of extents. False: nothing is left.
    pub(crate) fn read_at(&mut self, file: BorrowedFd<'_>, batch: &mut Batch, at: u64, tag: u64) -> bool {
        let Some((pieces, count)) = batch.next_vector() else { return false };
        let entry = opcode::Readv::new(Fd(file.as_raw_fd()), pieces, count).offset(at).build();
        self.push(entry.user_data(tag));
        true
    }

    /// Makes a file's (or directory's) content durable.
    pub(crate) fn sync(&mut self, file: BorrowedFd<'_>, tag: u64) {
        self.push(opcode::Fsync::new(Fd(file.as_raw_fd())).build().user_data(tag));
    }

    /// Opens a file for reading and writing; completes with its descriptor.
    pub(crate) fn open_at(&mut self, directory: BorrowedFd<'_>, name: &CStr, open: Open, tag: u64) {
        let more = if open.make { libc::O_CREAT } else { 0 } | if open.direct { libc::O_DIRECT } else { 0 };
        let flags = libc::O_RDWR | libc::O_CLOEXEC | more;
        let entry =
            opcode::OpenAt::new(Fd(directory.as_raw_fd()), name.as_ptr()).flags(flags).mode(0o600).build();
        self.push(entry.user_data(tag));
    }

    /// Removes a file's name.
    pub(crate) fn unlink_at(&mut self, directory: BorrowedFd<'_>, name: &CStr, tag: u64) {
        let entry = opcode::UnlinkAt::new(Fd(directory.as_raw_fd()), name.as_ptr()).build();
        self.push(entry.user_data(tag));
    }

    // Completions.

    /// Submits what was asked for, lets the kernel work out what is due, and waits if wanted: for one completion, or
    /// for several if the kernel can and the wait has an end.
    pub(crate) fn enter(&mut self, wait: Wait, gather: Option<Gather>) -> io::Result<()> {
        while let Some(entry) = self.waiting.pop_front() {
            if !self.try_push(&entry) {
                self.waiting.push_front(entry);
                break;
            }
        }
        let wait = if self.waiting.is_empty() { wait } else { Wait::No };
        // Deferred completions are worked out only with this flag.
        let mut flags = io_uring::EnterFlags::GETEVENTS;
        let gather = gather.filter(|_| self.features.gathered_waits);
        let (timeout, want) = match wait {
            Wait::No => (None, 0),
            Wait::Forever => (None, 1),
            Wait::AtMost(time) => (Some(Timespec::from(time)), gather.map_or(1, |gather| gather.completions)),
        };
        let mut args = SubmitArgs::new();
        if let Some(timeout) = &timeout {
            flags |= io_uring::EnterFlags::EXT_ARG;
            args = args.timespec(timeout).min_wait_usec(gather.map_or(0, |gather| gather.micros));
        }
        let submit = self.ring.submission().len() as u32;
        let submitter = self.ring.submitter();
        // SAFETY: the flags fit the argument given; the entries hold by the module's rule.
        let result = unsafe {
            match timeout {
                Some(_) => submitter.enter(submit, want, flags.bits(), Some(&args)),
                None => submitter.enter::<libc::sigset_t>(submit, want, flags.bits(), None),
            }
        };
        match result.map_err(|error| (error.raw_os_error(), error)) {
            // Time is up, a signal came, or completions want reading first.
            Ok(_) | Err((Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    pub(crate) fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    pub(crate) fn next(&mut self) -> Option<Completion> {
        self.ring.completion().next().map(read)
    }

    /// Moves up to `max` completions into `into`.
    pub(crate) fn take(&mut self, max: usize, into: &mut Vec<Completion>) {
        into.extend(self.ring.completion().take(max).map(read));
    }
}

fn read(entry: cqueue::Entry) -> Completion {
    let flags = entry.flags();
    Completion {
        tag: entry.user_data(),
        result: entry.result(),
        more: cqueue::more(flags),
        buffer: cqueue::buffer_select(flags),
    }
}
