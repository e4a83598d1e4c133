//! bpf(2), as far as aya does not go: pins by name, links that are replaced in
//! place and tell where they are attached, and maps that many threads share.

use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aya::Pod;

// Commands of bpf(2), from <linux/bpf.h>.
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_GET_NEXT_KEY: libc::c_long = 4;
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const PROG_TEST_RUN: libc::c_long = 10;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_DETACH: libc::c_long = 34;

// What MAP_UPDATE_ELEM does with a key that is there, from <linux/bpf.h>.
const ANY: u64 = 0;
const NO_EXIST: u64 = 1;

/// The arguments of a command: 64-bit words, as many as the command reads. The
/// kernel takes what is missing for zero.
#[expect(unsafe_code, reason = "nothing below speaks bpf(2)")]
pub(super) fn bpf(command: libc::c_long, attributes: &[u64]) -> io::Result<libc::c_long> {
    // SAFETY: the kernel copies as many bytes as we say there are. The callers
    // below put only pointers in there that live until the call returns, to
    // memory of the size that the map or the command implies.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            size_of_val(attributes),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[expect(unsafe_code, reason = "a descriptor arrives as a number")]
pub(super) fn bpf_fd(command: libc::c_long, attributes: &[u64]) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(bpf(command, attributes)?)
        .map_err(|_too_large| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Two 32-bit fields as they lie in a word.
pub(super) fn pair(low: u32, high: u32) -> u64 {
    let [a, b, c, d] = low.to_ne_bytes();
    let [e, f, g, h] = high.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

pub(super) fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn address<T>(of: &T) -> u64 {
    std::ptr::from_ref(of) as u64
}

/// Opens what is pinned at `path`.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf_fd(OBJ_GET, &[path.as_ptr() as u64, 0])
}

pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(OBJ_PIN, &[path.as_ptr() as u64, pair(number(object), 0)]).map(drop)
}

/// Attaches a program: `target` is the descriptor of a cgroup or a network
/// namespace, or an interface's index.
pub(super) fn create_link(
    program: BorrowedFd<'_>,
    target: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    bpf_fd(
        LINK_CREATE,
        &[
            pair(number(program), target),
            pair(attach_type, flags),
            0,
            0,
        ],
    )
}

/// Puts another program into a link, with no moment between the two. The
/// kernel compares no more than the programs' types: that the attach types are
/// the same is for the caller to know.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    bpf(LINK_UPDATE, &[pair(number(link), number(program)), 0]).map(drop)
}

/// Takes a link off what it is attached to, whoever holds it.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(LINK_DETACH, &[pair(number(link), 0)]).map(drop)
}

/// What a link says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkInfo {
    pub(super) kind: u32,
    pub(super) program: u32,
    /// Cgroup id, inode of the network namespace or index of the interface: 0
    /// once that is gone.
    pub(super) target: u64,
    pub(super) attach_type: u32,
}

impl LinkInfo {
    pub(super) const CGROUP: u32 = 3;
    pub(super) const NETNS: u32 = 5;
    pub(super) const TCX: u32 = 11;
}

pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // struct bpf_link_info: type, id, program, padding, then by type: a cgroup
    // has a 64-bit id, a network namespace a 32-bit inode, an interface a
    // 32-bit index, all then the attach type.
    let mut info = [0_u32; 32];
    let size = u32::try_from(size_of_val(&info)).unwrap_or(0);
    bpf(
        OBJ_GET_INFO_BY_FD,
        &[pair(number(link), size), info.as_mut_ptr() as u64],
    )?;
    let kind = info[0];
    let (target, attach_type) = if kind == LinkInfo::CGROUP {
        (pair(info[4], info[5]), info[6])
    } else {
        (u64::from(info[4]), info[5])
    };
    Ok(LinkInfo {
        kind,
        program: info[2],
        target,
        attach_type,
    })
}

/// The form of a map: type, key size, value size, capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapForm {
    pub(super) kind: u32,
    pub(super) key: u32,
    pub(super) value: u32,
    pub(super) capacity: u32,
}

pub(super) fn map_form(map: BorrowedFd<'_>) -> io::Result<MapForm> {
    // struct bpf_map_info: type, id, key size, value size, capacity, ...
    let mut info = [0_u32; 32];
    let size = u32::try_from(size_of_val(&info)).unwrap_or(0);
    bpf(
        OBJ_GET_INFO_BY_FD,
        &[pair(number(map), size), info.as_mut_ptr() as u64],
    )?;
    let [kind, _, key, value, capacity, ..] = info;
    Ok(MapForm {
        kind,
        key,
        value,
        capacity,
    })
}

/// The id of the calling task's cgroup, as the hooks see it: asked from the
/// kernel by a program of a few instructions, because in a container the paths
/// that /proc gives need not mean what they say.
pub(super) fn own_cgroup_id() -> io::Result<u64> {
    // call bpf_get_current_cgroup_id; [r0 >>= shift;] exit. A run gives back
    // 32 bits.
    const CALL: u64 = 0x85 | 80 << 32;
    const EXIT: u64 = 0x95;
    let shift = |bits: u64| 0x77 | bits << 32;
    let run = |shift: u64| -> io::Result<u64> {
        const RAW_TRACEPOINT: u32 = 17;
        let program = [CALL, shift, EXIT];
        let license = c"GPL";
        let fd = bpf_fd(
            PROG_LOAD,
            &[
                pair(RAW_TRACEPOINT, 3),
                address(&program),
                license.as_ptr() as u64,
                0,
                0,
                0,
            ],
        )?;
        let fd = fd.as_fd();
        let mut attributes = [pair(number(fd), 0), 0, 0, 0, 0, 0, 0, 0];
        bpf_answer(PROG_TEST_RUN, &mut attributes)?;
        // The second field of the arguments is where the result lies.
        Ok(attributes[0] >> 32)
    };
    Ok(run(shift(32))? << 32 | run(shift(0))?)
}

/// A command that answers in its arguments.
#[expect(unsafe_code, reason = "nothing below speaks bpf(2)")]
pub(super) fn bpf_answer(command: libc::c_long, attributes: &mut [u64]) -> io::Result<()> {
    // SAFETY: as of `bpf`; and what the kernel writes it writes within what we
    // say there is.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(attributes),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A map with keys `K` and values `V`, shared by whoever has a clone. The
/// kernel synchronises single operations.
pub(super) struct Map<K, V> {
    fd: Arc<OwnedFd>,
    types: PhantomData<fn(K) -> V>,
}

impl<K, V> std::fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Map").field(&self.fd).finish()
    }
}

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Self {
            fd: Arc::clone(&self.fd),
            types: PhantomData,
        }
    }
}

impl<K: Pod, V: Pod> Map<K, V> {
    /// Refuses a map whose keys or values have another size: the kernel would
    /// write past ours.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let form = map_form(fd.as_fd())?;
        if form.key as usize != size_of::<K>() || form.value as usize != size_of::<V>() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "keys of {} and values of {} bytes, not {} and {}",
                    form.key,
                    form.value,
                    size_of::<K>(),
                    size_of::<V>()
                ),
            ));
        }
        Ok(Self {
            fd: Arc::new(fd),
            types: PhantomData,
        })
    }

    fn number(&self) -> u64 {
        pair(self.fd.as_raw_fd().cast_unsigned(), 0)
    }

    pub(super) fn get(&self, key: &K) -> io::Result<Option<V>> {
        self.read(MAP_LOOKUP_ELEM, key)
    }

    /// Looks up and deletes in one step: no second caller gets the same.
    pub(super) fn take(&self, key: &K) -> io::Result<Option<V>> {
        self.read(MAP_LOOKUP_AND_DELETE_ELEM, key)
    }

    #[expect(unsafe_code, reason = "the kernel fills the value in")]
    fn read(&self, command: libc::c_long, key: &K) -> io::Result<Option<V>> {
        let mut value = MaybeUninit::<V>::uninit();
        let found = bpf(
            command,
            &[self.number(), address(key), value.as_mut_ptr() as u64, 0],
        );
        match absent(found)? {
            // SAFETY: the kernel has written a whole value, whose size was
            // compared when the map was opened, and every bit pattern is one.
            Some(()) => Ok(Some(unsafe { value.assume_init() })),
            None => Ok(None),
        }
    }

    pub(super) fn put(&self, key: &K, value: &V) -> io::Result<()> {
        self.update(key, value, ANY)
    }

    /// EEXIST if the key is in there already.
    pub(super) fn put_new(&self, key: &K, value: &V) -> io::Result<()> {
        self.update(key, value, NO_EXIST)
    }

    fn update(&self, key: &K, value: &V, flags: u64) -> io::Result<()> {
        bpf(
            MAP_UPDATE_ELEM,
            &[self.number(), address(key), address(value), flags],
        )
        .map(drop)
    }

    /// Whether there was one.
    pub(super) fn remove(&self, key: &K) -> io::Result<bool> {
        absent(bpf(MAP_DELETE_ELEM, &[self.number(), address(key)])).map(|gone| gone.is_some())
    }

    /// All keys. What others add or remove meanwhile may be in it or not.
    pub(super) fn keys(&self) -> io::Result<Vec<K>> {
        let mut keys: Vec<K> = Vec::new();
        // A map that changes can make the walk start over: it ends at the
        // latest after as many steps as any of our maps has entries, twice.
        let limit = 2 * mtls_common::maps::capacity::LARGEST;
        while keys.len() < limit {
            match self.key_after(keys.last())? {
                Some(key) => keys.push(key),
                None => break,
            }
        }
        Ok(keys)
    }

    #[expect(unsafe_code, reason = "the kernel fills the key in")]
    fn key_after(&self, key: Option<&K>) -> io::Result<Option<K>> {
        let mut next = MaybeUninit::<K>::uninit();
        let found = bpf(
            MAP_GET_NEXT_KEY,
            &[
                self.number(),
                key.map_or(0, address),
                next.as_mut_ptr() as u64,
            ],
        );
        match absent(found)? {
            // SAFETY: as for values.
            Some(()) => Ok(Some(unsafe { next.assume_init() })),
            None => Ok(None),
        }
    }

    /// Removes everything.
    pub(super) fn clear(&self) -> io::Result<()> {
        for key in &self.keys()? {
            self.remove(key)?;
        }
        Ok(())
    }
}

/// An array of counters that the hooks and every thread change in place.
#[derive(Debug)]
pub(super) struct Counters {
    first: NonNull<AtomicI64>,
    count: usize,
}

#[expect(
    unsafe_code,
    reason = "a pointer that is shared says nothing about itself"
)]
// SAFETY: it leads to atomic integers, which stay mapped until the drop.
unsafe impl Send for Counters {}
#[expect(
    unsafe_code,
    reason = "a pointer that is shared says nothing about itself"
)]
// SAFETY: the same.
unsafe impl Sync for Counters {}

impl Counters {
    /// Maps an array map of 64-bit values that was made for it.
    #[expect(unsafe_code, reason = "the kernel gives memory as an address")]
    pub(super) fn map(map: OwnedFd, count: usize) -> io::Result<Self> {
        let form = map_form(map.as_fd())?;
        if form.value as usize != size_of::<AtomicI64>() || form.capacity as usize != count {
            let what = format!("{form:?}, not {count} counters");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        // SAFETY: a new mapping, of no more than the map has.
        let first = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * size_of::<AtomicI64>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if first == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(first.cast::<AtomicI64>()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { first, count })
    }

    #[expect(unsafe_code, reason = "the kernel gives memory as an address")]
    fn all(&self) -> &[AtomicI64] {
        // SAFETY: so many were mapped, aligned to a page and set to zero when
        // the map was made; all who share them change them atomically.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }

    /// A place that is not there, such as another version may name, counts nothing.
    pub(super) fn add(&self, place: usize, by: i64) {
        if let Some(counter) = self.all().get(place) {
            counter.fetch_add(by, Ordering::Relaxed);
        }
    }

    pub(super) fn get(&self, place: usize) -> i64 {
        self.all()
            .get(place)
            .map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    pub(super) fn reset(&self) {
        for counter in self.all() {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for Counters {
    #[expect(unsafe_code, reason = "the kernel takes memory back by its address")]
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing borrows it now.
        unsafe { libc::munmap(self.first.as_ptr().cast(), size_of_val(self.all())) };
    }
}

fn absent(result: io::Result<libc::c_long>) -> io::Result<Option<()>> {
    match result {
        Ok(_) => Ok(Some(())),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Switches generic receive offload of an interface off; whether it was on.
#[expect(unsafe_code, reason = "nothing below speaks SIOCETHTOOL")]
pub(super) fn switch_gro_off(interface: &str) -> io::Result<bool> {
    // From <linux/ethtool.h>.
    const GET: u32 = 0x2b;
    const SET: u32 = 0x2c;
    const SIOCETHTOOL: u32 = 0x8946;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    let ask = |command: u32| -> io::Result<bool> {
        let mut value = [command, 0];
        // SAFETY: a C struct of integers and a union; zero is a value of each.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (place, byte) in request.ifr_name.iter_mut().zip(interface.bytes().take(15)) {
            *place = byte.cast_signed();
        }
        request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
        // SAFETY: the kernel reads and writes the two words that the request
        // leads to, which live until after the call.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL.into(), &raw mut request) };
        match done {
            0 => Ok(value[1] != 0),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let was_on = ask(GET)?;
    if was_on {
        ask(SET)?;
    }
    Ok(was_on)
}
