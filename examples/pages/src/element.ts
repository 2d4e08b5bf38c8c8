import { headcount } from './headcount'
import 'headcount-client/element'

headcount.connect()
