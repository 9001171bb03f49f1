// Two kernels on the CPU: RMS norm, and attention over a prefix tree with a sliding window.
//
// Built at first use by the machine's own compiler (native.py) and called through ctypes; nothing of torch is included.
// Shapes: N packed tokens, M queries, H query heads, K key-value heads, G = H / K, D head size, P prefix tokens,
// S path tokens (below the prefix), W window.
//
// Keys lie in blocks of BLOCK along the path, transposed, so that LANES of them meet one broadcast number of a query;
// values lie so that LANES of their D numbers meet one broadcast probability. With AVX512-BF16 a "unit" is a pair of
// bfloat16 and one instruction adds two products; elsewhere a unit is one float. A query meets the blocks of the prefix
// and then those of its path, in the same order whatever else is in the batch: its result does not depend on company.
//
// Online softmax: Milakov and Gimelshein 2018 (arXiv 1805.02867); in tiles: Dao et al. 2022 (arXiv 2205.14135).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <omp.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

namespace {

// A vector is one register: wider ones are kept in memory, which takes many times as long. A tile is TALL rows of WIDE
// vectors, and its sums, WIDE operands and a broadcast fit the registers: 24 + 4 + 1 of 32, or 12 + 2 + 1 of 16.
constexpr int TALL = 6;
#if defined(__AVX512F__)
constexpr int LANES = 16, WIDE = 4;
#else
constexpr int LANES = 8, WIDE = 2;
#endif
constexpr int BLOCK = 128;  // keys per block

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * LANES)));
typedef float LooseVec __attribute__((vector_size(4 * LANES), aligned(4)));

constexpr int ROWS = 48;  // rows of queries that pass over a block while it is in the first-level cache
constexpr float MINUS_INF = -std::numeric_limits<float>::infinity();

using bf16 = uint16_t;

INLINE Vec load(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
INLINE void store(float* p, Vec v) { *reinterpret_cast<LooseVec*>(p) = v; }
INLINE Vec all(float x) { return x - Vec{}; }
INLINE Vec larger(Vec a, Vec b) { return a > b ? a : b; }
INLINE float largest(Vec a) {
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) a[i] = std::max(a[i], a[i + half]);
  return a[0];
}
INLINE IntVec lanes() {
  IntVec found;
  for (int i = 0; i < LANES; i++) found[i] = i;
  return found;
}

INLINE float widened(float x) { return x; }
INLINE float widened(bf16 x) {
  uint32_t bits = uint32_t(x) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
INLINE void narrow(float x, float& out) { out = x; }
INLINE void narrow(float x, bf16& out) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  out = x != x ? bf16(0x7fc0) : bf16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// 2^x for x <= 0, -infinity included; the polynomial is good to 1e-7 on [0, 1).
INLINE Vec exp2_nonpositive(Vec x) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  Vec f = Vec(_mm512_reduce_ps(__m512(x), 0x09));  // x - floor(x)
#else
  x = x < all(-126.0f) ? all(-126.0f) : x;
  IntVec n = __builtin_convertvector(x, IntVec);  // towards zero
  n += __builtin_convertvector(n, Vec) > x;       // true is -1: now the floor
  Vec f = x - __builtin_convertvector(n, Vec);
#endif
  Vec p = all(2.161291632e-4f);
  p = p * f + 1.246784581e-3f;
  p = p * f + 9.675451554e-3f;
  p = p * f + 5.548528209e-2f;
  p = p * f + 2.402293086e-1f;
  p = p * f + 6.931470633e-1f;
  p = p * f + 1.0f;
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  return Vec(_mm512_scalef_ps(__m512(p), __m512(x)));
#else
  return x == all(-126.0f) ? Vec{} : Vec(IntVec(p) + (n << 23));
#endif
}

// A unit of the packed layouts and the one multiply-add on it.
struct Single {
  using Unit = float;
  static constexpr int STEP = 1;
  static INLINE Vec mac(Vec sum, Unit a, const Unit* b) { return sum + a * load(b); }
  static INLINE void pack_row(const float* x, Unit* out, int n) { std::memcpy(out, x, n * sizeof(float)); }
  static INLINE void pack_value(const float* x, Unit* out, int n, bool) { std::memcpy(out, x, n * sizeof(float)); }
};

#if defined(__AVX512BF16__)
struct Pair {
  using Unit = uint32_t;
  static constexpr int STEP = 2;
  static INLINE Vec mac(Vec sum, Unit a, const Unit* b) {
    return Vec(_mm512_dpbf16_ps(__m512(sum), __m512bh(_mm512_set1_epi32(int(a))), __m512bh(_mm512_loadu_si512(b))));
  }
  static INLINE void pack_row(const float* x, Unit* out, int n) {
    int i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES)
      _mm512_storeu_si512(out + i / 2, __m512i(_mm512_cvtne2ps_pbh(__m512(load(x + i + LANES)), __m512(load(x + i)))));
    for (; i < n; i += 2) {
      bf16 low, high;
      narrow(x[i], low), narrow(x[i + 1], high);
      out[i / 2] = uint32_t(low) | uint32_t(high) << 16;
    }
  }
  // An even key clears the odd key's half, so that what follows the last key is zero. An odd one replaces what is there:
  // where a node begins at an odd place, that is its elder sibling's value.
  static INLINE void pack_value(const float* x, Unit* out, int n, bool odd) {
    for (int i = 0; i < n; i++) {
      bf16 v;
      narrow(x[i], v);
      out[i] = odd ? (out[i] & 0xffff) | uint32_t(v) << 16 : v;
    }
  }
};
#endif

struct Shape {
  int64_t num_heads, num_kv_heads, head_size, prefix, window;  // window: 0 where there is none
  int64_t group() const { return num_heads / num_kv_heads; }
  int64_t padded() const { return (head_size + LANES - 1) / LANES * LANES; }
};

// Packed keys or values of `blocks` blocks of one head, in units.
template <class E> int64_t key_units(const Shape& s) { return (s.head_size / E::STEP) * BLOCK; }
template <class E> int64_t value_units(const Shape& s) { return (BLOCK / E::STEP) * s.padded(); }

// sums[m][v] += a[m] . b[:, v] over `depth` units
template <class E, int V>
INLINE void multiply(const typename E::Unit* a, int64_t a_row, const typename E::Unit* b, int64_t b_row, int depth,
                     Vec (&sums)[TALL][V]) {
  for (int k = 0; k < depth; k++)
    for (int m = 0; m < TALL; m++)
      for (int v = 0; v < V; v++) sums[m][v] = E::mac(sums[m][v], a[m * a_row + k], b + k * b_row + v * LANES);
}

template <class E, int V>
INLINE void scores_tile(const typename E::Unit* q, int64_t q_row, const typename E::Unit* keys, int depth, float* out) {
  Vec sums[TALL][V] = {};
  multiply<E, V>(q, q_row, keys, BLOCK, depth, sums);
  for (int m = 0; m < TALL; m++)
    for (int v = 0; v < V; v++) store(out + m * BLOCK + v * LANES, sums[m][v]);
}

template <class E, int V>
INLINE void output_tile(const typename E::Unit* p, const typename E::Unit* values, int64_t width, int depth,
                        const float* decay, float* out) {
  Vec sums[TALL][V];
  for (int m = 0; m < TALL; m++)
    for (int v = 0; v < V; v++) sums[m][v] = load(out + m * width + v * LANES) * decay[m];
  multiply<E, V>(p, BLOCK / E::STEP, values, width, depth, sums);
  for (int m = 0; m < TALL; m++)
    for (int v = 0; v < V; v++) store(out + m * width + v * LANES, sums[m][v]);
}

// Calls tile<4>, then one of tile<1..3> for what is left of `vectors`.
#define IN_TILES(vectors, CALL)                       \
  {                                                   \
    int at = 0;                                       \
    for (; at + WIDE <= (vectors); at += WIDE) {      \
      CALL(WIDE)                                      \
    }                                                 \
    if ((vectors) - at == 3) { CALL(3) }              \
    if ((vectors) - at == 2) { CALL(2) }              \
    if ((vectors) - at == 1) { CALL(1) }              \
  }

// Up to ROWS queries of one node and one key-value head on their way over the blocks.
template <class E> struct Queries {
  using Unit = typename E::Unit;
  const Shape& shape;
  int64_t width, depth;  // of an output row in floats, of a query in units
  float to_exp2;         // softmax scale times log2(e)
  int num = 0;
  int64_t positions[ROWS];
  float best[ROWS];
  alignas(64) float mass[ROWS * LANES], scores[TALL * BLOCK];
  alignas(64) Unit shares[TALL * (BLOCK / E::STEP)];
  std::vector<Unit> units;    // (ROWS, depth)
  std::vector<float> output;  // (ROWS, width)

  Queries(const Shape& s, float scale)
      : shape(s), width(s.padded()), depth(s.head_size / E::STEP), to_exp2(scale * 1.44269504088896f),
        units(ROWS * depth), output(ROWS * width) {}

  void reset(int rows) {
    for (num = rows; num % TALL; num++) {  // a tile is computed whole: its empty rows repeat the last query
      positions[num] = positions[rows - 1];
      std::copy_n(&units[(rows - 1) * depth], depth, &units[num * depth]);
    }
    std::fill_n(best, num, MINUS_INF);
    std::fill_n(mass, num * LANES, 0.0f);
    std::fill_n(output.begin(), num * width, 0.0f);
  }

  // One block of `num_keys` keys, the first of them at absolute position `first`.
  void meet(const Unit* keys, const Unit* values, int64_t first, int64_t num_keys) {
    for (int row = 0; row < num; row += TALL) {
      int64_t lowest = positions[row], highest = positions[row + TALL - 1];
      int64_t end = std::min(num_keys, highest - first + 1);
      int64_t begin = shape.window ? std::max<int64_t>(0, lowest - shape.window + 1 - first) : 0;
      if (begin >= end) continue;
      begin = begin / LANES * LANES;
      int vectors = int((end - begin + LANES - 1) / LANES);
      const Unit* q = &units[row * depth];
#define CALL(V) scores_tile<E, V>(q, depth, keys + begin + at * LANES, int(depth), scores + at * LANES);
      IN_TILES(vectors, CALL)
#undef CALL
      float decay[LANES];
      weigh(row, vectors, first + begin, first + num_keys - 1, decay);
      const Unit* from = values + begin / E::STEP * width;
      float* out = &output[row * width];
      int d = int(width / LANES);
#define CALL(V) output_tile<E, V>(shares, from + at * LANES, width, vectors * LANES / E::STEP, decay, out + at * LANES);
      IN_TILES(d, CALL)
#undef CALL
    }
  }

  // A tile's scores -> its shares of the value sums, and the factors by which what was summed before shrinks.
  INLINE void weigh(int row, int vectors, int64_t first, int64_t last, float* decay) {
    float now[LANES] = {}, before[LANES] = {};
    for (int m = 0; m < TALL; m++) {
      float* score = scores + m * BLOCK;
      const int64_t position = positions[row + m];
      const int64_t newest = std::min(position, last), oldest = shape.window ? position - shape.window + 1 : 0;
      if (oldest > first || newest < first + vectors * LANES - 1)
        for (int v = 0; v < vectors; v++) {
          IntVec at = lanes() + int32_t(v * LANES);
          IntVec seen = (at >= int32_t(oldest - first)) & (at <= int32_t(newest - first));
          store(score + v * LANES, seen ? load(score + v * LANES) : all(MINUS_INF));
        }
      Vec top = load(score);
      for (int v = 1; v < vectors; v++) top = larger(top, load(score + v * LANES));
      before[m] = best[row + m];
      now[m] = best[row + m] = std::max(before[m], largest(top));
    }
    // A row that has seen nothing yet has the base 0, and every share is 2^-infinity = 0.
    Vec base = load(now) == all(MINUS_INF) ? Vec{} : load(now) * to_exp2;
    store(decay, exp2_nonpositive(load(before) * to_exp2 - base));
    for (int m = 0; m < TALL; m++) {
      float* score = scores + m * BLOCK;
      Vec total = load(mass + (row + m) * LANES) * decay[m];
      for (int v = 0; v < vectors; v++) {
        Vec share = exp2_nonpositive(load(score + v * LANES) * to_exp2 - base[m]);
        total += share;
        store(score + v * LANES, share);
      }
      store(mass + (row + m) * LANES, total);
      E::pack_row(score, shares + m * (BLOCK / E::STEP), vectors * LANES);
    }
  }

  float whole(int row) const {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += mass[row * LANES + i];
    return sum;
  }
};

// Rotates one head by its position (RoPE, Su et al. 2021, arXiv 2104.09864; halves, as Hugging Face lays them out).
template <class T> INLINE void rotated(const T* x, const float* cos, const float* sin, int64_t size, float* out) {
  int64_t half = size / 2;
  for (int64_t i = 0; i < half; i++) {
    float a = widened(x[i]), b = widened(x[half + i]);
    out[i] = a * cos[i] - b * sin[i];
    out[half + i] = b * cos[i] + a * sin[i];
  }
}

// One head's keys and values along a path, in blocks; a node writes behind its ancestors.
template <class E> struct Path {
  using Unit = typename E::Unit;
  const Shape& shape;
  Unit *keys, *values;

  template <class T> void put(int64_t at, const T* key, const T* value, const float* cos, const float* sin) {
    constexpr int MOST = 512;  // checked by native.py
    float row[MOST];
    Unit units[MOST];
    int64_t size = shape.head_size, width = shape.padded(), column = at % BLOCK;
    rotated(key, cos, sin, size, row);
    E::pack_row(row, units, int(size));
    Unit* k = keys + at / BLOCK * key_units<E>(shape) + column;
    for (int64_t i = 0; i < size / E::STEP; i++) k[i * BLOCK] = units[i];
    for (int64_t i = 0; i < size; i++) row[i] = widened(value[i]);
    Unit* v = values + at / BLOCK * value_units<E>(shape) + column / E::STEP * width;
    E::pack_value(row, v, int(size), column % E::STEP);
  }

  // Tiles read whole vectors of keys; a stale value that is not finite would spoil them even at share 0.
  void clear_behind(int64_t end) {
    int64_t width = shape.padded();
    for (int64_t at = (end + E::STEP - 1) / E::STEP * E::STEP; at % LANES; at += E::STEP)
      std::fill_n(values + at / BLOCK * value_units<E>(shape) + at % BLOCK / E::STEP * width, width, Unit(0));
  }
};

// The keys and values of a prefix that begins at position 0, all heads of one layer.
template <class E, class T>
void pack(const Shape& shape, int threads, const T* k, const T* v, int64_t kv_row, const float* cos, const float* sin,
          int64_t num_tokens, typename E::Unit* keys, typename E::Unit* values) {
  const int64_t blocks = (num_tokens + BLOCK - 1) / BLOCK, size = shape.head_size;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t head = 0; head < shape.num_kv_heads; head++) {
    Path<E> path{shape, keys + head * blocks * key_units<E>(shape), values + head * blocks * value_units<E>(shape)};
    for (int64_t at = 0; at < num_tokens; at++)
      path.put(at, k + at * kv_row + head * size, v + at * kv_row + head * size, cos + at * size / 2, sin + at * size / 2);
    path.clear_behind(num_tokens);
  }
}

// A batch as tree.py lays it out: trees of nodes in depth-first order, so that a node's ancestors are what stands before
// it on its path when it is written there. Node n holds the tokens start[n]..end[n]-1, the first of them at the absolute
// position position[n], and the queries first_query[n]..first_query[n + 1]-1.
struct Batch {
  int64_t num_trees;
  const int64_t *tree, *start, *end, *position, *first_query, *query_position;
  int64_t longest;  // path, in tokens
};

template <class E, class T>
void attend(const Shape& shape, int threads, float scale, const T* q, int64_t q_row, const T* k, const T* v,
            int64_t kv_row, const float* cos, const float* sin, const typename E::Unit* prefix_keys,
            const typename E::Unit* prefix_values, const Batch& batch, T* out) {
  using Unit = typename E::Unit;
  const int64_t heads = shape.num_heads, kv_heads = shape.num_kv_heads, size = shape.head_size, group = shape.group();
  const int64_t half = size / 2, key_block = key_units<E>(shape), value_block = value_units<E>(shape);
  const int64_t path_blocks = (batch.longest + BLOCK - 1) / BLOCK, prefix_blocks = (shape.prefix + BLOCK - 1) / BLOCK;
  const int64_t per_pass = std::max<int64_t>(1, ROWS / group);
  // fewer trees than threads: several threads share one, each with its own copy of the path and a part of the queries
  const int64_t sharing = std::max<int64_t>(1, threads / (batch.num_trees * kv_heads));
#pragma omp parallel num_threads(threads)
  {
    Queries<E> queries(shape, scale);
    std::vector<Unit> keys(path_blocks * key_block), values(path_blocks * value_block);
    std::vector<float> row(size);
    Path<E> path{shape, keys.data(), values.data()};
#pragma omp for schedule(dynamic, 1)
    for (int64_t job = 0; job < kv_heads * batch.num_trees * sharing; job++) {
      const int64_t part = job % sharing, tree = job / sharing % batch.num_trees;
      const int64_t head = job / sharing / batch.num_trees;
      const Unit* before_keys = prefix_keys + head * prefix_blocks * key_block;
      const Unit* before_values = prefix_values + head * prefix_blocks * value_block;
      for (int64_t node = batch.tree[tree]; node < batch.tree[tree + 1]; node++) {
        const int64_t begin = batch.position[node] - shape.prefix;
        const int64_t end = begin + batch.end[node] - batch.start[node];
        for (int64_t at = begin; at < end; at++) {
          const int64_t token = batch.start[node] + at - begin, angle = (at + shape.prefix) * half;
          path.put(at, k + token * kv_row + head * size, v + token * kv_row + head * size, cos + angle, sin + angle);
        }
        path.clear_behind(end);
        int64_t pass = 0;
        for (int64_t first = batch.first_query[node]; first < batch.first_query[node + 1]; first += per_pass, pass++) {
          if (pass % sharing != part) continue;
          const int64_t last = std::min(first + per_pass, batch.first_query[node + 1]);
          int rows = 0;
          for (int64_t i = first; i < last; i++)
            for (int64_t g = 0; g < group; g++, rows++) {
              queries.positions[rows] = batch.query_position[i];
              const int64_t angle = batch.query_position[i] * half;
              rotated(q + i * q_row + (head * group + g) * size, cos + angle, sin + angle, size, row.data());
              E::pack_row(row.data(), &queries.units[rows * queries.depth], int(size));
            }
          queries.reset(rows);
          const int64_t newest = batch.query_position[last - 1];
          const int64_t oldest = shape.window ? std::max<int64_t>(0, batch.query_position[first] - shape.window + 1) : 0;
          for (int64_t b = oldest / BLOCK; b < prefix_blocks; b++)
            queries.meet(before_keys + b * key_block, before_values + b * value_block, b * BLOCK,
                         std::min<int64_t>(BLOCK, shape.prefix - b * BLOCK));
          for (int64_t b = std::max<int64_t>(0, oldest - shape.prefix) / BLOCK; b * BLOCK <= newest - shape.prefix; b++)
            queries.meet(path.keys + b * key_block, path.values + b * value_block, shape.prefix + b * BLOCK,
                         std::min<int64_t>(BLOCK, end - b * BLOCK));
          for (int r = 0; r < rows; r++) {
            const float whole = queries.whole(r);
            T* to = out + (first + r / group) * heads * size + (head * group + r % group) * size;
            for (int64_t i = 0; i < size; i++) narrow(queries.output[r * queries.width + i] / whole, to[i]);
          }
        }
      }
    }
  }
}

template <class T> void norm(int threads, const T* x, const T* weight, float epsilon, int64_t rows, int64_t size, T* out) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < rows; r++) {
    const T* from = x + r * size;
    Vec sums{};  // lane by lane, so that the order of the sum is the same everywhere
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
      Vec part;
      for (int j = 0; j < LANES; j++) part[j] = widened(from[i + j]);
      sums += part * part;
    }
    float sum = 0;
    for (int j = 0; j < LANES; j++) sum += sums[j];
    for (; i < size; i++) sum += widened(from[i]) * widened(from[i]);
    const float factor = 1.0f / std::sqrt(sum / float(size) + epsilon);
    for (i = 0; i < size; i++) narrow(widened(from[i]) * factor * widened(weight[i]), out[r * size + i]);
  }
}

#if defined(__AVX512BF16__)
using Best = Pair;
#else
using Best = Single;
#endif

}  // namespace

// What native.py calls: the type of the numbers decides which of the above it is.
extern "C" {

// Bytes of the packed keys (which = 0) or values (1) of `tokens` tokens: all key-value heads of one layer.
int64_t guard_packed_bytes(int is_bf16, int which, int64_t kv_heads, int64_t head_size, int64_t tokens) {
  const Shape shape{kv_heads, kv_heads, head_size, 0, 0};
  const int64_t blocks = kv_heads * ((tokens + BLOCK - 1) / BLOCK);
  if (is_bf16) return blocks * sizeof(Best::Unit) * (which ? value_units<Best>(shape) : key_units<Best>(shape));
  return blocks * sizeof(Single::Unit) * (which ? value_units<Single>(shape) : key_units<Single>(shape));
}

void guard_pack(int is_bf16, int threads, int64_t kv_heads, int64_t head_size, const void* k, const void* v,
                int64_t kv_row, const float* cos, const float* sin, int64_t tokens, void* keys, void* values) {
  const Shape shape{kv_heads, kv_heads, head_size, 0, 0};
#define PACK(E, T)                                                                                                \
  pack<E>(shape, threads, static_cast<const T*>(k), static_cast<const T*>(v), kv_row, cos, sin, tokens,           \
          static_cast<E::Unit*>(keys), static_cast<E::Unit*>(values))
  is_bf16 ? PACK(Best, bf16) : PACK(Single, float);
#undef PACK
}

void guard_attend(int is_bf16, int threads, int64_t heads, int64_t kv_heads, int64_t head_size, int64_t prefix,
                  int64_t window, float scale, const void* q, int64_t q_row, const void* k, const void* v,
                  int64_t kv_row, const float* cos, const float* sin, const void* prefix_keys,
                  const void* prefix_values, int64_t num_trees, const int64_t* tree, const int64_t* start,
                  const int64_t* end, const int64_t* position, const int64_t* first_query,
                  const int64_t* query_position, int64_t longest, void* out) {
  const Shape shape{heads, kv_heads, head_size, prefix, window};
  const Batch batch{num_trees, tree, start, end, position, first_query, query_position, longest};
#define ATTEND(E, T)                                                                                              \
  attend<E>(shape, threads, scale, static_cast<const T*>(q), q_row, static_cast<const T*>(k),                     \
            static_cast<const T*>(v), kv_row, cos, sin, static_cast<const E::Unit*>(prefix_keys),                 \
            static_cast<const E::Unit*>(prefix_values), batch, static_cast<T*>(out))
  is_bf16 ? ATTEND(Best, bf16) : ATTEND(Single, float);
#undef ATTEND
}

void guard_norm(int is_bf16, int threads, const void* x, const void* weight, float epsilon, int64_t rows, int64_t size,
                void* out) {
#define NORM(T) \
  norm(threads, static_cast<const T*>(x), static_cast<const T*>(weight), epsilon, rows, size, static_cast<T*>(out))
  is_bf16 ? NORM(bf16) : NORM(float);
#undef NORM
}

}
