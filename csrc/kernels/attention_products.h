// The products of a piece of attention: queries of its rows with keys, their probabilities with values.
//
// How depends on the form (attention_tile.h): here by its own elements, in attention_digits.h by integers. Scores and
// results are float32, and the softmax between them is the same.
#pragma once

#include <cstddef>

#include "kernels/attention_tile.h"
#include "kernels/kv_tile.h"
#include "kernels/simd.h"

namespace ozone::OZONE_ISA {

// Keys between two looks at the softmax. Steps begin at multiples of it, so that what a row gets does not depend
// on the rows beside it.
inline constexpr int64_t kStepKeys = 128;
inline constexpr int64_t kStepTiles = kStepKeys / kTilePositions;
// Rows (new tokens times query heads that share a KV head) that see a tile of keys together.
inline constexpr int64_t kBlockRows = 48;

// Scratch memory, handed out from its beginning.
class Room {
  public:
    explicit Room(std::byte* begin) : at_(begin) {}

    template <typename T>
    T* take(int64_t count) {
        T* const part = reinterpret_cast<T*>(at_);
        at_ += (count * sizeof(T) + 63) / 64 * 64;
        return part;
    }

  private:
    std::byte* at_;
};

// Tiles are given as where they lie, kAhead tiles after them included.
template <typename Form, typename C>
class Products {
    using Element = typename Form::Element;
    using Scalar = typename Form::Scalar;

    // Tiles that so many rows see are decoded as they are multiplied; those of more once, to memory.
    static constexpr int64_t kRowsThatDecode = 2 * kRows;

  public:
    Products(Room& room, int64_t rows, int64_t columns)
        : rows_(rows), columns_(columns), probabilities_(room.take<Element>(kBlockRows * kStepKeys)),
          queries_(room.take<Element>(kBlockRows * columns)), last_values_(room.take<Element>(kTilePositions * columns)),
          keys_(room.take<Element>(kStepKeys * columns)), values_(room.take<Element>(kStepKeys * columns)) {}

    template <typename T>
    void set_query(int64_t row, const T* q, int64_t head_dim) {
        Element* to = queries_ + row * columns_;
        int64_t i = 0;
        for (; i + kLanes <= head_dim; i += kLanes) Form::store(to + i, load(q + i));
        for (; i < columns_; i += kLanes) Form::store(to + i, load_some(q + i, head_dim > i ? head_dim - i : 0));
    }

    // scores[row][key] = factors[key] * q . key, for the keys of `count` tiles. Up to kStepKeys are written.
    void score(float* scores, const C* const* tiles, int64_t count, const float* factors) {
        if (reads_cache()) return score_from(scores, tiles, count, factors);
        if constexpr (!__is_same(Element, C)) {
            Decoded decoded;
            decode(decoded, keys_, tiles, count,
                   [](Element* to, const C* const* tile, int64_t columns) { decode_keys<Form>(to, tile, columns); });
            score_from(scores, decoded.tiles, count, factors);
        }
    }

    // Takes the probabilities of one row, times the scales of their values. Its scores are needed no more.
    class Row {
      public:
        OZONE_INLINE void put(int64_t key, F32 probabilities) { Form::store(to_ + key, probabilities); }
        OZONE_INLINE void done() {}

      private:
        friend Products;
        explicit Row(Element* to) : to_(to) {}
        Element* to_;
    };
    OZONE_INLINE Row probabilities_of(int64_t row, float*) { return Row(probabilities_ + row * kStepKeys); }
    // What is left to do when every row has its probabilities.
    void round_probabilities(const float*, int64_t) {}

    // out[row] = keep[row] * out[row] + the sum of probabilities times values, for `keys` keys in `count` tiles.
    void weigh(float* out, const float* keep, const C** tiles, int64_t keys, int64_t count) {
        if (reads_cache()) return weigh_from(out, keep, tiles, keys, count);
        if constexpr (!__is_same(Element, C)) {
            Decoded decoded;
            decode(decoded, values_, tiles, count,
                   [](Element* to, const C* const* tile, int64_t columns) { decode_values<Form>(to, tile, columns); });
            weigh_from(out, keep, decoded.tiles, keys, count);
        }
    }

  private:
    bool reads_cache() const { return __is_same(Element, C) || rows_ <= kRowsThatDecode; }

    struct Decoded {
        const Element* tiles[kStepTiles + kAhead<Element>];
    };
    // Decodes tiles to memory from `to` on, each by `one`.
    template <typename One>
    OZONE_INLINE void decode(Decoded& decoded, Element* to, const C* const* tiles, int64_t count, One one) const {
        for (int64_t i = 0; i < count; ++i, to += kTilePositions * columns_) {
            one(to, tiles + i, columns_);
            decoded.tiles[i] = to;
        }
        for (int64_t i = count; i < count + kAhead<Element>; ++i) decoded.tiles[i] = decoded.tiles[count - 1];
    }

    template <typename S>
    void score_from(float* out, const S* const* tiles, int64_t count, const float* factors) {
        const S* vectors[(kStepTiles + kAhead<S>) * kSplit];
        for (int64_t i = 0; i < (count + kAhead<S>) * kSplit; ++i)
            vectors[i] = tiles[i / kSplit] + i % kSplit * kLanes * kPack<S>;
        constexpr int kWide = Reader<Form, S>::kWide;
        int64_t v = 0;
        for (; v + kWide <= count * kSplit; v += kWide) score_vectors<S, kWide>(out, v, vectors + v, factors);
        if constexpr (kWide == 4) {
            for (; v < count * kSplit; ++v) score_vectors<S, 1>(out, v, vectors + v, factors);
        } else if (v < count * kSplit) {
            // And a tile that comes later, whose scores nobody reads.
            score_vectors<S, kWide>(out, v, vectors + v, factors);
        }
    }

    template <typename S, int V>
    OZONE_INLINE void score_vectors(float* out, int64_t v, const S* const* vectors, const float* factors) {
        for (int64_t row = 0; row < rows_; row += kRows)
            with_rows(rows_ - row, [&]<int R>(Rows<R>) {
                scores<Form, S, R, V>(out + row * kStepKeys + v * kLanes, kStepKeys,
                                      reinterpret_cast<const Scalar*>(queries_ + row * columns_), vectors,
                                      columns_ / Form::kPack, factors + v * kLanes);
            });
    }

    template <typename S>
    void weigh_from(float* out, const float* keep, const S** tiles, int64_t keys, int64_t count) {
        // Behind the last key lies what an earlier request left. Zero times that is not zero if it is a NaN.
        if (keys % kTilePositions) {
            S* last = reinterpret_cast<S*>(last_values_);
            copy_until(last, tiles[count - 1], keys % kTilePositions);
            tiles[count - 1] = last;
        }
        for (int64_t row = 0; row < rows_; row += kRows)
            with_rows(rows_ - row, [&]<int R>(Rows<R>) {
                constexpr int kWide = kWideColumns<Form, S, R>;
                const auto gather_vectors = [&]<int V>(Vectors<V>, int64_t column) {
                    gather<Form, S, R, V>(out + row * columns_, columns_, keep + row,
                                          reinterpret_cast<const Scalar*>(probabilities_ + row * kStepKeys),
                                          kStepKeys / Form::kPack, tiles, count, column, columns_);
                };
                each_column<kWide>(columns_, gather_vectors);
            });
    }

    // A copy of a tile of values with zeros for the positions from `position` on.
    template <typename S>
    void copy_until(S* to, const S* tile, int64_t position) const {
        const int64_t row = columns_ * kPack<S>, whole = position / kPack<S> * row;
        std::memcpy(to, tile, whole * sizeof(S));
        std::memset(to + whole, 0, (kTilePositions * columns_ - whole) * sizeof(S));
        for (int64_t i = 0; i < position % kPack<S>; ++i)
            for (int64_t column = 0; column < row; column += kPack<S>)
                to[whole + column + i] = tile[whole + column + i];
    }

    const int64_t rows_, columns_;
    Element* const probabilities_;  // [kBlockRows][kStepKeys]
    Element* const queries_;        // [kBlockRows][columns]
    Element* const last_values_;    // a tile that is not full
    Element* const keys_;           // decoded: [kStepTiles][16 * columns]
    Element* const values_;
};

}  // namespace ozone::OZONE_ISA
