#include "kernels/attention_merge.h"

#include "kernels/attention_chunks.h"
#include "kernels/quantize_row.h"
#include "kernels/share.h"
#include "kernels/simd.h"
#include "runtime/team.h"

namespace ozone::OZONE_ISA {
namespace {

// Columns of a row that are quantized alike whether alone or with others: whole heads, groups and sums.
int64_t columns_apart(const AttentionMergeQuantize& p) {
    const int64_t cols = p.to.out_cols;
    if (has_scale_of_row(p.to)) return cols;
    int64_t apart = p.head_dim;
    if (p.to.group)
        while (apart < cols && (apart % p.to.group || apart % kSumCols)) apart += p.head_dim;
    return apart;
}

}  // namespace

void run(const AttentionMerge& p, int rank, int size) {
    const int64_t width = partial_width(p.head_dim);
    const Share heads = share_of(p.requests * p.heads, rank, size);
    for (int64_t at = heads.begin; at < heads.end; ++at) {
        const int64_t i = at / p.heads, count = chunks_to_join(p, i);
        if (count <= 1) continue;
        with_type(p.dtype, [&]<typename T>(T) {
            T* out = static_cast<T*>(p.out) + (p.query_start_loc[i] * p.heads + at % p.heads) * p.head_dim;
            join_chunks(out, p.partials + at * p.chunks * width, count, p.head_dim);
        });
    }
}

// Rows are divided further where that is possible, so that one long context keeps every rank busy.
void run(const AttentionMergeQuantize& p, int rank, int size) {
    const int64_t width = partial_width(p.head_dim), cols = p.to.out_cols;
    const int64_t apart = columns_apart(p), parts = cols / apart;
    const Share share = share_of(p.rows * parts, rank, size);
    with_type(p.dtype, [&]<typename T>(T) {
        T* const place = reinterpret_cast<T*>(scratch() + kPlaceOffset);
        int64_t i = 0;  // the request of the row at hand
        for (int64_t at = share.begin, next; at < share.end; at = next) {
            const int64_t row = at / parts;
            next = (row + 1) * parts < share.end ? (row + 1) * parts : share.end;
            const int64_t begin = (at - row * parts) * apart, end = (next - row * parts) * apart;
            while (i < p.requests && p.query_start_loc[i + 1] <= row) ++i;
            const T* x = static_cast<const T*>(p.attended) + row * cols + begin;
            const int64_t count = i < p.requests ? chunks_to_join(p, i) : 0;
            if (count > 1) {
                for (int64_t head = begin / p.head_dim; head < end / p.head_dim; ++head)
                    join_chunks(place + head * p.head_dim - begin, p.partials + (i * p.heads + head) * p.chunks * width,
                                count, p.head_dim);
                x = place;
            }
            finish_row(columns_of(p.to, row, begin, end), 0, x);
        }
    });
}

}  // namespace ozone::OZONE_ISA
