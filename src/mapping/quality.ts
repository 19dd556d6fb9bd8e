/** How near mapped rows are to what they are meant to be. */
export class Quality {
  readonly #width: number;
  #rows = 0;
  #residual = 0;
  #cosines = 0;
  #errors = 0;
  /** Sums over rows of y, and of its squares, from the first row on, so that they are small. */
  #origin: Float32Array | undefined;
  readonly #sums: Float64Array;
  #squares = 0;

  constructor(width: number) {
    this.#width = width;
    this.#sums = new Float64Array(width);
  }

  /** Rows as they came out of a map, and as they are. */
  add(mapped: Float32Array, rows: Float32Array): void {
    this.#origin ??= rows.slice(0, this.#width);
    for (let begin = 0; begin < rows.length; begin += this.#width) {
      let [product, mappedSquares, squares, residual] = [0, 0, 0, 0];
      for (let i = 0; i < this.#width; i++) {
        const [is, should] = [mapped[begin + i]!, rows[begin + i]!];
        const from = should - this.#origin[i]!;
        residual += (is - should) ** 2;
        this.#sums[i]! += from;
        this.#squares += from * from;
        product += is * should;
        mappedSquares += is * is;
        squares += should * should;
      }
      this.#rows++;
      this.#residual += residual;
      this.#errors += Math.sqrt(residual / (squares || 1));
      this.#cosines += product / Math.sqrt(mappedSquares * squares || 1);
    }
  }

  /** Null where there are no rows, or where they are all the same. */
  get r2(): number | null {
    const means = this.#sums.reduce((sum, value) => sum + value * value, 0) / this.#rows;
    const spread = this.#squares - means;
    return spread > 0 ? 1 - this.#residual / spread : null;
  }

  get cosine(): number | null {
    return this.#rows === 0 ? null : this.#cosines / this.#rows;
  }

  get relativeError(): number | null {
    return this.#rows === 0 ? null : this.#errors / this.#rows;
  }
}
