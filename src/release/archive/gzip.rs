//! The bytes of one gzip member, bounded.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

use super::{Bounds, Refusal};

/// Inflates its source and counts.
pub(super) struct Inflated<R> {
    decoder: GzDecoder<BufReader<Counted<R>>>,
    bounds: Bounds,
    unpacked: u64,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// Counts what is read, and keeps the error of a source that fails: a decoder may wrap or replace it.
struct Counted<R> {
    source: R,
    read: u64,
    fault: Option<io::Error>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.source.read(buffer) {
            Ok(read) => {
                self.read += read as u64;
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.fault = Some(error);
                Err(io::Error::other("the source failed"))
            }
        }
    }
}

impl<R: Read> Inflated<R> {
    pub(super) fn new(source: R, bounds: Bounds) -> Self {
        let source = BufReader::with_capacity(128 << 10, Counted { source, read: 0, fault: None });
        // 128 KiB: large enough that the calls cost nothing, small enough for the cache of one core.
        Self { decoder: GzDecoder::new(source), bounds, unpacked: 0, buffer: vec![0; 128 << 10], start: 0, end: 0 }
    }

    /// The error of the source, if that is why reading ended.
    pub(super) fn take_fault(&mut self) -> Option<io::Error> {
        self.decoder.get_mut().get_mut().fault.take()
    }

    /// Fills `target`.
    pub(super) fn fill(&mut self, mut target: &mut [u8]) -> Result<(), Refusal> {
        while !target.is_empty() {
            let data = self.some(target.len() as u64)?;
            let (now, later) = target.split_at_mut(data.len());
            now.copy_from_slice(data);
            target = later;
        }
        Ok(())
    }

    /// At least one and at most `most` bytes.
    pub(super) fn some(&mut self, most: u64) -> Result<&[u8], Refusal> {
        let data = self.some_or_end(most)?;
        if data.is_empty() {
            return Err(Refusal::archive("it is truncated: the archive has no end marker"));
        }
        Ok(data)
    }

    /// At most `most` bytes; none at the end.
    pub(super) fn some_or_end(&mut self, most: u64) -> Result<&[u8], Refusal> {
        if self.start == self.end {
            self.start = 0;
            self.end = self.inflate()?;
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(self.end - self.start);
        let data = &self.buffer[self.start..self.start + most];
        self.start += most;
        Ok(data)
    }

    fn inflate(&mut self) -> Result<usize, Refusal> {
        let read = loop {
            match self.decoder.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(Refusal::archive("it is truncated: the compressed data breaks off"));
                }
                Err(error) => return Err(Refusal::archive(format!("its gzip data is damaged ({error})"))),
                Ok(read) => break read,
            }
        };
        self.unpacked += read as u64;
        if self.unpacked > self.bounds.unpacked {
            let most = self.bounds.unpacked;
            return Err(Refusal::archive(format!("it unpacks to more than {most} bytes")));
        }
        let packed = self.decoder.get_ref().get_ref().read;
        if self.unpacked > Bounds::FREE + packed.saturating_mul(self.bounds.ratio) {
            let most = self.bounds.ratio;
            return Err(Refusal::archive(format!("it unpacks to more than {most} times its size")));
        }
        Ok(read)
    }

    /// The compressed data must end where its only member does.
    pub(super) fn end(&mut self) -> Result<(), Refusal> {
        let source = self.decoder.get_mut();
        loop {
            match source.fill_buf() {
                Ok([]) => return Ok(()),
                Ok([0x1f, 0x8b, ..]) => return Err(Refusal::archive("a second gzip member follows the first")),
                Ok(_) => return Err(Refusal::archive("data follows the end of its gzip data")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Refusal::Io(error)),
            }
        }
    }
}
