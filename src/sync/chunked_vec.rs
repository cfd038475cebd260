use super::once::SetOnce;

#[cfg(not(any(miri, timebox_loom)))]
const PER_CHUNK: usize = 32;
// The watchdog looks at every place in each pass.
#[cfg(any(miri, timebox_loom))]
const PER_CHUNK: usize = 2;

/// A vector that grows in chunks, so that its elements never move. Each chunk has twice as many places as the chunk
/// before. The first access to a place makes its chunk, which then stays.
#[derive(Debug)]
pub(crate) struct ChunkedVec<T> {
    chunks: [SetOnce<Box<[T]>>; CHUNKS],
}

const CHUNKS: usize = 26;

/// The number of the chunk that holds the place `index`, and the place within that chunk. The first chunk has `first`
/// places, and each later chunk twice as many as the chunk before.
pub(crate) fn chunk_of(index: usize, first: usize) -> (usize, usize) {
    let chunk = (index / first + 1).ilog2() as usize;
    // The chunks before `chunk` have `(first << chunk) - first` places together.
    (chunk, index + first - (first << chunk))
}

impl<T: Default> ChunkedVec<T> {
    pub(crate) const fn new() -> Self {
        Self { chunks: [const { SetOnce::new() }; CHUNKS] }
    }

    pub(crate) fn at(&self, index: usize) -> &T {
        let (chunk, at) = chunk_of(index, PER_CHUNK);
        let make = || (0..PER_CHUNK << chunk).map(|_| T::default()).collect();
        &self.chunks[chunk].get_or_init(make)[at]
    }

    /// The elements of all chunks that were made. Chunks are not made in order, so this does not stop at a missing
    /// chunk.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().filter_map(SetOnce::get).flat_map(|chunk| &chunk[..])
    }

    #[cfg(feature = "report")]
    pub(crate) fn iter_indexed(&self) -> impl Iterator<Item = (usize, &T)> {
        let chunks = self.chunks.iter().enumerate();
        let chunks =
            chunks.filter_map(|(number, chunk)| Some(((PER_CHUNK << number) - PER_CHUNK, chunk.get()?)));
        chunks.flat_map(|(first, chunk)| {
            chunk.iter().enumerate().map(move |(at, element)| (first + at, element))
        })
    }
}

#[cfg(all(test, not(timebox_loom)))]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn each_index_has_a_place_of_its_own_that_stays() {
        let vec = ChunkedVec::<Cell<usize>>::new();
        let last = 10 * PER_CHUNK;
        vec.at(last).set(last);
        (0..last).for_each(|index| vec.at(index).set(index));
        assert!((0..=last).all(|index| vec.at(index).get() == index));
        let all: Vec<usize> = vec.iter().map(Cell::get).take(last + 1).collect();
        assert!(all.into_iter().eq(0..=last));
    }
}
