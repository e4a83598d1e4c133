//! Frames in a file that tcpdump and Wireshark read, too.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Doing, Error, Result};

const MAGIC: u32 = 0xa1b2_c3d4;
const ETHERNET: u32 = 1;
const SNAPLEN: u32 = 256 * 1024;
const FILE_HEADER: usize = 24;
const FRAME_HEADER: usize = 16;

pub(super) struct Writer {
    file: BufWriter<File>,
}

impl Writer {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).doing(|| format!("making {}", path.display()))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        let mut header = Vec::with_capacity(FILE_HEADER);
        header.extend(MAGIC.to_le_bytes());
        header.extend([2, 0, 4, 0]); // version 2.4
        header.extend([0; 8]); // time zone, accuracy
        header.extend(SNAPLEN.to_le_bytes());
        header.extend(ETHERNET.to_le_bytes());
        file.write_all(&header).doing(|| "writing the capture")?;
        Ok(Self { file })
    }

    /// `length`: on the wire, more than `frame` if it was cut.
    pub(super) fn frame(&mut self, frame: &[u8], length: usize) -> Result {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut header = [0; FRAME_HEADER];
        let fields = [
            u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
            now.subsec_micros(),
            u32::try_from(frame.len()).unwrap_or(u32::MAX),
            u32::try_from(length).unwrap_or(u32::MAX),
        ];
        for (slot, field) in header.chunks_exact_mut(4).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes());
        }
        self.file
            .write_all(&header)
            .and_then(|()| self.file.write_all(frame))
            .doing(|| "writing the capture")
    }

    pub(super) fn close(mut self) -> Result {
        self.file.flush().doing(|| "writing the capture")
    }
}

pub(super) struct Reader {
    file: BufReader<File>,
    frame: Vec<u8>,
}

/// A frame of the file.
pub(super) struct Frame<'a> {
    pub(super) bytes: &'a [u8],
    /// Whether the wire carried more of it.
    pub(super) is_cut: bool,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).doing(|| format!("opening {}", path.display()))?;
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut header = [0; FILE_HEADER];
        file.read_exact(&mut header)
            .doing(|| format!("reading {}", path.display()))?;
        if header[..4] != MAGIC.to_le_bytes() {
            return Err(Error::Unreadable {
                what: path.display().to_string(),
                why: "it is no capture of ours".into(),
            });
        }
        Ok(Self {
            file,
            frame: Vec::new(),
        })
    }

    pub(super) fn next(&mut self) -> Result<Option<Frame<'_>>> {
        let mut header = [0; FRAME_HEADER];
        match self.file.read_exact(&mut header) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read.doing(|| "reading the capture")?,
        }
        let field = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&header[at..at + 4]);
            u32::from_le_bytes(bytes)
        };
        let (kept, length) = (field(8), field(12));
        self.frame.resize(kept.min(SNAPLEN) as usize, 0);
        self.file
            .read_exact(&mut self.frame)
            .doing(|| "reading the capture")?;
        Ok(Some(Frame {
            bytes: &self.frame,
            is_cut: length > kept,
        }))
    }
}
