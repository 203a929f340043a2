//! Choices out of the fuzzer's bytes.

/// Reads choices off the front of the fuzzer's bytes. When they have run out every choice is 0,
/// which each method makes the plain one.
#[derive(Debug, Clone)]
pub struct Source<'a> {
    bytes: &'a [u8],
}

impl<'a> Source<'a> {
    /// Choices out of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Whether there is nothing left to choose by.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// At most `len` bytes.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(len.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// Any byte.
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Any number.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Any number.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Any number.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number below `end`, which is at most 65,536; 0 if `end` is.
    pub fn below(&mut self, end: usize) -> usize {
        let choice = if end <= 256 {
            usize::from(self.u8())
        } else {
            usize::from(self.u16())
        };
        choice.checked_rem(end).unwrap_or(0)
    }

    /// True one time in `n`, which is at most 256: for damage.
    pub fn rarely(&mut self, n: u8) -> bool {
        n > 0 && self.u8() % n == n - 1
    }

    /// True half the time.
    pub fn coin(&mut self) -> bool {
        self.u8() & 1 != 0
    }

    /// One of `choices`, which are not none; the first is the plain one.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A number where mistakes live: small, a power of two and its neighbours, the greatest, or
    /// any.
    pub fn edge(&mut self) -> u64 {
        match self.u8() % 8 {
            0 | 1 => u64::from(self.u8()),
            2 => u64::from(self.u8()) << 12,
            3 => 1_u64.rotate_left(self.u8().into()),
            4 => 1_u64.rotate_left(self.u8().into()).wrapping_sub(1),
            5 => u64::MAX - u64::from(self.u8()),
            6 => u64::from(u32::MAX) - 128 + u64::from(self.u8()),
            _ => self.u64(),
        }
    }

    /// Mostly `usual`, rarely an [edge](Self::edge).
    pub fn mostly(&mut self, usual: u64) -> u64 {
        if self.rarely(16) { self.edge() } else { usual }
    }

    /// Changes a few bytes of `target`, at most its length, or cuts it; mostly does nothing.
    pub fn damage(&mut self, target: &mut Vec<u8>) {
        if !self.rarely(4) || target.is_empty() {
            return;
        }
        for _ in 0..=self.below(4) {
            let at = usize::from(self.u16()) % target.len();
            target[at] = self.u8();
        }
        if self.rarely(4) {
            let keep = usize::from(self.u16()) % target.len();
            target.truncate(keep);
        }
    }
}
