//! The entropy device (virtio 1.2, 5.4): one queue of buffers to fill with random bytes.
//!
//! The device is called on vCPU threads, its worker on the I/O thread. A request is answered with
//! at most [`BYTES_MAX`] bytes, however large its buffer: 5.4.6.1 allows a device to fill less.

use std::any::Any;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::chain::ChainBuffers;
use super::device::{Activation, ActiveQueue, Identity, QueuePosition, VirtioDevice};
use super::interrupt::Interrupt;
use super::saved::DeviceState;
use super::spec::TYPE_ENTROPY;
use crate::io_thread::{Fault, Source, Worker};
use crate::memory::SharedMemory;
use crate::random;
use crate::saved::BadState;

/// Largest queue. Linux's driver has one request at a time.
const QUEUE_SIZE: u16 = 64;
/// Most bytes one request gets. Linux's driver asks for 64 to 4096.
pub const BYTES_MAX: usize = 4096;
/// Requests answered before the I/O thread looks at its other workers.
const BATCH: usize = 64;

/// Where random bytes come from.
pub trait Entropy: Send {
    /// Fills `bytes`, all of them, without blocking for long.
    ///
    /// # Errors
    /// What the host answered; the request then gets no bytes.
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()>;
}

/// The host kernel's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostEntropy;

impl Entropy for HostEntropy {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        random::fill(bytes)
    }
}

/// The entropy device.
pub struct Rng {
    identity: Identity,
    /// The worker has it while one runs.
    source: Option<Box<dyn Entropy>>,
}

impl Rng {
    /// A device that hands out what `source` gives.
    #[must_use]
    pub fn new(source: Box<dyn Entropy>) -> Self {
        let identity = Identity {
            device_type: TYPE_ENTROPY,
            features: 0,
            queue_sizes: vec![QUEUE_SIZE],
        };
        Self {
            identity,
            source: Some(source),
        }
    }
}

impl VirtioDevice for Rng {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    /// There is no configuration space.
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    /// There is no configuration space.
    fn write_config(&mut self, _features: u64, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<Box<dyn Worker>, Fault> {
        let Activation {
            memory,
            features: _,
            recall: _,
            queues,
            interrupt,
        } = activation;
        let source = self.source.take();
        let source = source.ok_or_else(|| Fault("the entropy source is gone".to_owned()))?;
        let buffers = ChainBuffers::new();
        let queue = queues.into_iter().next();
        Ok(Box::new(RngWorker {
            memory,
            queue,
            interrupt,
            source,
            buffers,
        }))
    }

    fn reclaim(&mut self, worker: Box<dyn Worker>) -> Result<Vec<QueuePosition>, Fault> {
        let worker: Box<dyn Any> = worker;
        let worker = worker.downcast::<RngWorker>();
        let worker = worker.map_err(|_| Fault("not an entropy device's worker".to_owned()))?;
        let RngWorker {
            memory: _,
            queue,
            interrupt: _,
            source,
            buffers: _,
        } = *worker;
        self.source = Some(source);
        Ok(queue
            .iter()
            .map(|q| (q.index, q.queue.position()))
            .collect())
    }

    /// The driver leaves no trace in the device.
    fn reset(&mut self) {
        let Self {
            identity: _,
            source: _,
        } = self;
    }

    fn save(&self) -> DeviceState {
        let Self {
            identity: _,
            source: _,
        } = self;
        DeviceState::Rng
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), BadState> {
        match state {
            DeviceState::Rng => Ok(()),
            _ => Err(BadState {
                kind: "virtio-rng",
                field: "device",
                problem: "is not an entropy device's".to_owned(),
            }),
        }
    }
}

/// The running half.
struct RngWorker {
    memory: SharedMemory,
    /// `None` if the driver did not set it up.
    queue: Option<ActiveQueue>,
    interrupt: Arc<Interrupt>,
    source: Box<dyn Entropy>,
    buffers: ChainBuffers,
}

impl Worker for RngWorker {
    fn sources(&self) -> Vec<Source> {
        let source = |q: &ActiveQueue| Source {
            fd: q.doorbell.as_raw_fd(),
            token: 0,
        };
        self.queue.iter().map(source).collect()
    }

    fn ready(&mut self, _token: u32) -> Result<(), Fault> {
        let Self {
            memory,
            queue,
            interrupt,
            source,
            buffers,
        } = self;
        let Some(queue) = queue else { return Ok(()) };
        let mut bytes = [0; BYTES_MAX];
        queue.serve(memory, BATCH, |queue, head| {
            buffers.collect(queue.chain(memory, head))?;
            let mut writer = buffers.writable(memory);
            let wanted = usize::try_from(writer.remaining()).unwrap_or(BYTES_MAX);
            if wanted == 0 {
                return Err(Fault("a request with nothing to fill".to_owned()));
            }
            let bytes = bytes.get_mut(..wanted.min(BYTES_MAX)).unwrap_or_default();
            let filled = source.fill(bytes).is_ok() && writer.write(bytes).is_ok();
            let written = if filled {
                u32::try_from(bytes.len()).unwrap_or(0)
            } else {
                0
            };
            queue.push_used(memory, head, written)?;
            Ok(ControlFlow::Continue(()))
        })?;
        queue.signal(memory, interrupt)
    }

    fn poll(&mut self) -> Result<bool, Fault> {
        Ok(false)
    }

    fn stop_polling(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    /// Nothing is ever in flight.
    fn finish(&mut self) -> bool {
        drop(self.queue.as_ref().map(|queue| queue.doorbell.read()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io_thread::IoThread;
    use crate::virtio::fake_driver::{DATA, Driver, Events, writable};
    use vm_memory::{Bytes, GuestAddress};

    /// Sevens, or an error when asked for 13 bytes.
    struct Sevens;
    impl Entropy for Sevens {
        fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
            bytes.fill(7);
            if bytes.len() == 13 {
                Err(io::ErrorKind::Other.into())
            } else {
                Ok(())
            }
        }
    }

    #[test]
    fn buffers_are_filled_up_to_the_limit_and_not_beyond() {
        let io = IoThread::spawn(|| {}).unwrap();
        let device = Box::new(Rng::new(Box::new(Sevens)));
        let mut driver = Driver::new(device, io.handle(), Arc::new(Events::default()));
        let features = driver.offered();
        driver.start(features, 8);
        driver.queues[0].add(&[writable(DATA, 10), writable(DATA + 100, 10)]);
        assert_eq!(driver.run(0).1, 20);
        driver.queues[0].add(&[writable(DATA + 200, 0x10_0000)]);
        assert_eq!(driver.run(0).1, 4096);
        driver.queues[0].add(&[writable(DATA + 0x20_0000, 13)]);
        assert_eq!(driver.run(0).1, 0);
        let mut data = vec![0; 0x2000];
        driver
            .memory
            .read_slice(&mut data, GuestAddress(DATA))
            .unwrap();
        let filled = |range: std::ops::Range<usize>| data[range].iter().all(|&byte| byte == 7);
        assert!(filled(0..10) && filled(100..110) && filled(200..4296));
        assert_eq!(
            data.iter().filter(|&&byte| byte == 7).count(),
            10 + 10 + 4096
        );
    }

    #[test]
    fn the_host_gives_different_bytes() {
        let (mut a, mut b) = ([0; 300], [0; 300]);
        HostEntropy.fill(&mut a).unwrap();
        HostEntropy.fill(&mut b).unwrap();
        assert_ne!(a, b);
        assert_ne!(a[256..], [0; 44]);
    }
}
