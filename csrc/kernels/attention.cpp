#include "kernels/attention.h"

#include <cstddef>

#include "kernels/attention_chunks.h"
#include "kernels/attention_digits.h"
#include "kernels/attention_products.h"
#include "kernels/kv_tile.h"
#include "kernels/share.h"
#include "kernels/simd.h"
#include "runtime/team.h"

namespace ozone::OZONE_ISA {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

// ---- how requests are cut ----

// Query heads that share a KV head, in slices of at most kBlockRows.
struct Slices {
    int64_t group, length, count;
};
Slices slices_of(const Attention& p) {
    const int64_t group = p.heads / p.kv_heads, count = (group + kBlockRows - 1) / kBlockRows;
    return {group, (group + count - 1) / count, count};
}

// One piece of work: some rows of one request and KV head against a range of keys.
struct Item {
    int64_t request, kv_head;
    int64_t head, heads;            // query heads
    int64_t token, tokens;          // rows of q
    int64_t position;               // of the first of these tokens in its request
    int64_t first_key, end_key;     // first_key is a multiple of 16
    float* partial;                 // of the first head, or null where the result is whole
};

// ---- one item ----

// Where the tiles of a step lie, and those after it, in the order in which they are read: the keys of the step,
// its values, the keys of the next step, and so on. What lies behind the last tile is harmless to read again.
template <typename C>
struct Tiles {
    const C* reads[2 * kStepTiles + kAhead<C>];
    int64_t count;  // of keys, and of values

    const C** values() { return reads + count; }
};

template <typename Form, typename C>
class Task {
    static constexpr bool kScaledByPosition = __is_same(C, int8_t);

  public:
    // `next` is the item that comes after this one, or null.
    Task(const Attention& p, const Item& item, const Item* next)
        : p_(p), item_(item), next_(next), columns_(padded(p.head_dim)), rows_(item.tokens * item.heads),
          tiles_per_block_(p.block_size / kTilePositions), place_(place_of(item)),
          next_place_(next ? place_of(*next) : Place{}), room_(scratch()), scores_(room_.take<float>(kBlockRows * kStepKeys)),
          out_(room_.take<float>(kBlockRows * columns_)), factors_(room_.take<float>(kStepKeys)),
          value_scales_(room_.take<float>(kStepKeys)), products_(room_, rows_, columns_) {}

    void operator()() {
        prefetch_queries();
        float scale = static_cast<float>(p_.scale);
        if (p_.softcap == 0) scale *= kLog2E;
        if (__is_same(C, e4m3)) scale *= p_.kv_scales[0];
        for (int64_t i = 0; i < kStepKeys; ++i) factors_[i] = scale;
        for (int64_t row = 0; row < rows_; ++row) {
            positions_[row] = item_.position + row / item_.heads;
            largest_[row] = kMinusInfinity;
            store_wide(sums_[row], 0);
            for (int64_t i = 0; i < columns_; i += kLanes) store(out_ + row * columns_ + i, splat(0));
        }
        convert_queries();
        for (int64_t key = item_.first_key; key < item_.end_key; key += kStepKeys) step(key, scale);
        finish();
    }

  private:
    static OZONE_INLINE void store_wide(float* to, float x) {
        for (int i = 0; i < kTilePositions; i += kLanes) store(to + i, splat(x));
    }

    // Calls `body(row, q)` for the query of each row. Rows go by tokens, and within a token by heads.
    template <typename T, typename Body>
    OZONE_INLINE void each_query(Body body) const {
        int64_t row = 0;
        for (int64_t token = item_.token; token < item_.token + item_.tokens; ++token)
            for (int64_t head = item_.head; head < item_.head + item_.heads; ++head)
                body(row++, static_cast<const T*>(p_.q) + token * p_.q_stride + head * p_.q_head_stride);
    }

    void prefetch_queries() const {
        with_type(p_.dtype, [&]<typename T>(T) {
            each_query<T>([&](int64_t, const T* q) {
                for (int64_t i = 0; i < p_.head_dim; i += 64 / sizeof(T)) __builtin_prefetch(q + i);
            });
        });
    }

    void convert_queries() {
        with_type(p_.dtype, [&]<typename T>(T) {
            each_query<T>([&](int64_t row, const T* q) { products_.set_query(row, q, p_.head_dim); });
        });
    }

    // A tile of a request: the entry of its block, and which tile of that it is.
    struct Place {
        const int32_t* block;
        int64_t tile;
    };
    Place place_of(const Item& item) const {
        const int64_t tile = item.first_key / kTilePositions, block = tile / tiles_per_block_;
        return {p_.block_tables + item.request * p_.table_stride + block, tile - block * tiles_per_block_};
    }

    // Writes where the tiles of the step at hand lie, and those of the steps after it as far as there is room.
    void locate(int64_t key) {
        const C** to = tiles_.reads;
        const C* const* const end = tiles_.reads + 2 * kStepTiles + kAhead<C>;
        tiles_.count = tiles_of(item_, key);
        const Item* item = &item_;
        Place place = place_;
        while (item && end - to >= 2 * kStepTiles) {
            const int64_t count = tiles_of(*item, key);
            place = locate_step(*item, place, count, to, to + count);
            to += 2 * count;
            key += kStepKeys;
            if (key >= item->end_key) {
                item = item == &item_ ? next_ : nullptr;
                if (item) key = item->first_key, place = next_place_;
            }
            if constexpr (kScaledByPosition)
                if (item && to == tiles_.reads + 2 * tiles_.count) prefetch_scales(*item, place, tiles_of(*item, key));
        }
        for (; to < end; ++to) *to = to[-1];
    }

    static int64_t tiles_of(const Item& item, int64_t key) {
        const int64_t left = item.end_key - key, keys = left < kStepKeys ? left : kStepKeys;
        return (keys + kTilePositions - 1) / kTilePositions;
    }

    // Calls `body(i, block, tile)` for the i-th tile from `place` on; returns where those behind them are.
    template <typename Body>
    OZONE_INLINE Place each_tile(Place place, int64_t count, Body body) const {
        for (int64_t i = 0; i < count; ++i) {
            body(i, int64_t{*place.block}, place.tile);
            if (++place.tile == tiles_per_block_) place.tile = 0, ++place.block;
        }
        return place;
    }

    Place locate_step(const Item& item, Place place, int64_t count, const C** keys, const C** values) const {
        return each_tile(place, count, [&](int64_t i, int64_t block, int64_t tile) {
            const int64_t at =
                block * p_.block_stride + item.kv_head * p_.head_stride + tile * kTilePositions * columns_;
            keys[i] = static_cast<const C*>(p_.k_cache) + at;
            values[i] = static_cast<const C*>(p_.v_cache) + at;
        });
    }

    // The scales of a tile's keys, and behind them those of its values.
    OZONE_INLINE const float* scales_of(const Item& item, int64_t block, int64_t tile) const {
        return p_.kv_scales + ((block * p_.kv_heads + item.kv_head) * tiles_per_block_ + tile) * 2 * kTilePositions;
    }

    void prefetch_scales(const Item& item, Place place, int64_t count) const {
        each_tile(place, count, [&](int64_t, int64_t block, int64_t tile) {
            const float* scales = scales_of(item, block, tile);
            __builtin_prefetch(scales);
            __builtin_prefetch(scales + kTilePositions);
        });
    }

    void step(int64_t key, float scale) {
        const int64_t left = item_.end_key - key, keys = left < kStepKeys ? left : kStepKeys;
        locate(key);
        const int64_t count = tiles_.count;
        if constexpr (kScaledByPosition) read_scales(keys, scale);
        products_.score(scores_, tiles_.reads, count, factors_);
        for (int64_t row = 0; row < rows_; ++row) mask_and_find_largest(row, key, keys);
        rescale();
        for (int64_t row = 0; row < rows_; ++row) exponentiate(row, count);
        products_.round_probabilities(scores_, count);
        products_.weigh(out_, keep_, tiles_.values(), keys, count);
        place_ = each_tile(place_, count, [](int64_t, int64_t, int64_t) {});
    }

    void read_scales(int64_t keys, float scale) {
        const int64_t count = tiles_.count;
        each_tile(place_, count, [&](int64_t at, int64_t block, int64_t tile) {
            const float* scales = scales_of(item_, block, tile);
            for (int64_t i = 0; i < kTilePositions; i += kLanes) {
                store(factors_ + at * kTilePositions + i, load(scales + i) * scale);
                store(value_scales_ + at * kTilePositions + i, load(scales + kTilePositions + i));
            }
        });
        for (int64_t i = keys; i < count * kTilePositions; ++i) value_scales_[i] = 0;
    }

    // Scores of keys that the row does not see become minus infinity; finds the tiles in which it sees any.
    void mask_and_find_largest(int64_t row, int64_t key, int64_t keys) {
        float* scores = scores_ + row * kStepKeys;
        int64_t end = positions_[row] + 1 - key, begin = p_.window ? end - p_.window : 0;
        if (end > keys) end = keys;
        if (begin < 0) begin = 0;
        new_largest_[row] = largest_[row];
        if (begin >= end) {
            seen_[row] = {0, 0};
            return;
        }
        const Seen seen{begin / kTilePositions, (end + kTilePositions - 1) / kTilePositions};
        seen_[row] = seen;
        if (p_.softcap != 0) soft_cap(scores, seen);
        if (begin % kTilePositions) hide(scores, seen.begin * kTilePositions, begin, end);
        if (end % kTilePositions) hide(scores, (seen.end - 1) * kTilePositions, begin, end);
        F32 most = splat(kMinusInfinity);
        for (int64_t i = seen.begin * kTilePositions; i < seen.end * kTilePositions; i += kLanes)
            most = max(load(scores + i), most);
        new_largest_[row] = scalar_max(largest_[row], largest(most));
    }

    struct Seen {
        int64_t begin, end;  // tiles
    };

    void soft_cap(float* scores, const Seen& seen) const {
        const F32 cap = splat(static_cast<float>(p_.softcap) * kLog2E);
        const F32 inverse = splat(static_cast<float>(1.0 / p_.softcap));
        for (int64_t i = seen.begin * kTilePositions; i < seen.end * kTilePositions; i += kLanes)
            store(scores + i, tanh(load(scores + i) * inverse) * cap);
    }

    static OZONE_INLINE void hide(float* scores, int64_t tile, int64_t begin, int64_t end) {
        for (int64_t i = tile; i < tile + kTilePositions; ++i)
            if (i < begin || i >= end) scores[i] = kMinusInfinity;
    }

    // What was summed so far was relative to the largest score so far.
    void rescale() {
        for (int64_t row = 0; row < rows_; row += kLanes) {
            const F32 before = load(largest_ + row), now = load(new_largest_ + row);
            store(keep_ + row, select(now == before, splat(1), exp2(before - now)));
            store(largest_ + row, now);
        }
    }

    // 2^x, and zero where `exp2` would leave something of a key that is not seen.
    static OZONE_INLINE F32 power(F32 x) {
#if defined(__AVX512F__)
        return exp2(x);
#else
        return select(x < -126.0f, splat(0), exp2(x));
#endif
    }

    void exponentiate(int64_t row, int64_t count) {
        float* scores = scores_ + row * kStepKeys;
        auto probabilities = products_.probabilities_of(row, scores);
        const F32 most = splat(largest_[row]), keep = splat(keep_[row]);
        const Seen seen = seen_[row];
        F32 sum[kSplit];
        for (int s = 0; s < kSplit; ++s) sum[s] = load(sums_[row] + s * kLanes) * keep;
        for (int64_t tile = 0; tile < count; ++tile)
            for (int s = 0; s < kSplit; ++s) {
                const int64_t i = tile * kTilePositions + s * kLanes;
                F32 probability = splat(0);
                if (tile >= seen.begin && tile < seen.end) {
                    probability = power(load(scores + i) - most);
                    sum[s] += probability;
                    if constexpr (kScaledByPosition) probability *= load(value_scales_ + i);
                }
                probabilities.put(i, probability);
            }
        probabilities.done();
        for (int s = 0; s < kSplit; ++s) store(sums_[row] + s * kLanes, sum[s]);
    }

    void finish() {
        const float value_scale = __is_same(C, e4m3) ? p_.kv_scales[1] : 1.0f;
        with_type(p_.dtype, [&]<typename T>(T) {
            for (int64_t row = 0; row < rows_; ++row) {
                const float* from = out_ + row * columns_;
                float sum = 0;
                for (int i = 0; i < kTilePositions; ++i) sum += sums_[row][i];
                const int64_t head = row % item_.heads, token = item_.token + row / item_.heads;
                if (item_.partial) {
                    float* to = item_.partial + head * p_.chunks * (kPartialHeader + columns_);
                    to[0] = largest_[row];
                    to[1] = sum;
                    for (int64_t i = 0; i < columns_; i += kLanes)
                        store(to + kPartialHeader + i, load(from + i) * value_scale);
                } else {
                    T* to = static_cast<T*>(p_.out) + (token * p_.heads + item_.head + head) * p_.head_dim;
                    write_row(to, from, value_scale / sum, p_.head_dim);
                }
            }
        });
    }

    template <typename T>
    static OZONE_INLINE void write_row(T* to, const float* from, float factor, int64_t count) {
        int64_t i = 0;
        for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i) * factor);
        store_some(to + i, load_some(from + i, count - i) * factor, count - i);
    }

    const Attention& p_;
    const Item& item_;
    const Item* const next_;
    const int64_t columns_, rows_, tiles_per_block_;
    Place place_;  // of the step at hand
    const Place next_place_;
    Room room_;
    float* const scores_;        // [kBlockRows][kStepKeys]
    float* const out_;           // [kBlockRows][columns]
    float* const factors_;       // [kStepKeys]: of scores
    float* const value_scales_;  // [kStepKeys], of int8
    Products<Form, C> products_;
    Tiles<C> tiles_;
    alignas(64) float largest_[kBlockRows], new_largest_[kBlockRows], keep_[kBlockRows];
    alignas(64) float sums_[kBlockRows][kTilePositions];
    Seen seen_[kBlockRows];
    int64_t positions_[kBlockRows];
};

void attend(const Attention& p, const Item& item, const Item* next) {
    with_cache_type(p.cache_dtype, [&]<typename C>(C) {
        Task<typename FormOf<C>::type, C> task(p, item, next);
        task();
    });
}

// ---- all items ----

// Calls `body(item)` for the query heads of each KV head of request `i`, in slices, without tokens and keys.
template <typename Body>
OZONE_INLINE void each_slice(const Attention& p, int64_t i, Body body) {
    const Slices slices = slices_of(p);
    for (int64_t kv_head = 0; kv_head < p.kv_heads; ++kv_head)
        for (int64_t slice = 0; slice < slices.count; ++slice) {
            const int64_t begin = slice * slices.length, left = slices.group - begin;
            const int64_t heads = left < slices.length ? left : slices.length;
            body(Item{i, kv_head, kv_head * slices.group + begin, heads, p.query_start_loc[i], 1, 0, 0, 0, nullptr});
        }
}

// The heads of a chunk come one after the other: they lie side by side in each block, and processors fetch what
// follows what is read.
template <typename Body>
OZONE_INLINE void each_item_of_decode(const Attention& p, int64_t i, Body body) {
    const int64_t length = p.seq_lens[i];
    const Chunks chunks = chunks_of(length, p.window);
    for (int64_t c = 0; c < chunks.count; ++c)
        each_slice(p, i, [&](Item item) {
            item.position = length - 1;
            item.first_key = chunks.begin + c * chunks.length;
            item.end_key = item.first_key + chunks.length < length ? item.first_key + chunks.length : length;
            if (chunks.count > 1)
                item.partial = p.partials + ((i * p.heads + item.head) * p.chunks + c) *
                                                (kPartialHeader + padded(p.head_dim));
            body(item);
        });
}

template <typename Body>
OZONE_INLINE void each_item_of_prefill(const Attention& p, int64_t i, int64_t tokens, Body body) {
    each_slice(p, i, [&](Item item) {
        const int64_t first = item.token, most = kBlockRows / item.heads;
        for (int64_t token = 0; token < tokens; token += most) {
            item.tokens = tokens - token < most ? tokens - token : most;
            item.token = first + token;
            item.position = p.seq_lens[i] - tokens + token;
            const int64_t seen = p.window ? item.position + 1 - p.window : 0;
            item.first_key = seen > 0 ? seen / kStepKeys * kStepKeys : 0;
            item.end_key = item.position + item.tokens;
            body(item);
        }
    });
}

// Calls `body(item)` for every piece of work, in an order that all ranks share.
template <typename Body>
OZONE_INLINE void each_item(const Attention& p, Body body) {
    for (int64_t i = 0; i < p.requests; ++i) {
        const int64_t tokens = p.query_start_loc[i + 1] - p.query_start_loc[i];
        if (tokens == 1) each_item_of_decode(p, i, body);
        else each_item_of_prefill(p, i, tokens, body);
    }
}

// About how long an item takes, per key: reading it from memory costs as much as some rows of products.
OZONE_INLINE int64_t cost_of(const Item& item) {
    constexpr int64_t kReading = 8;
    return (item.end_key - item.first_key + kTilePositions) * (kReading + item.tokens * item.heads);
}

}  // namespace

// Every rank goes through the same list of items and takes those that begin in its share of the total cost. An
// item knows the next one, so that reading can run ahead of it.
void run(const Attention& p, int rank, int size) {
    int64_t total = 0;
    if (size > 1) each_item(p, [&](const Item& item) { total += cost_of(item); });
    const int64_t begin = total * rank / size, end = total * (rank + 1) / size;
    int64_t at = 0;
    Item waiting;
    bool any = false;
    each_item(p, [&](const Item& item) {
        const bool mine = size == 1 || (at >= begin && at < end);
        at += cost_of(item);
        if (!mine) return;
        if (any) attend(p, waiting, &item);
        waiting = item;
        any = true;
    });
    if (any) attend(p, waiting, nullptr);
}

}  // namespace ozone::OZONE_ISA
